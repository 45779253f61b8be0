"""Router configs: where the token comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from jumpstarter.common.exceptions import ConfigurationError

from .router import RouterConfigV1Alpha1


def config(**members: Any) -> RouterConfigV1Alpha1:
    given = {"kind": "RouterConfig", "metadata": {"namespace": "lab", "name": "east"}, "endpoint": "lab:8082"}
    return RouterConfigV1Alpha1.model_validate(given | members)


def test_a_token_in_a_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    router = config(tokenFile=str(file))
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        assert router.read_token() == token


def test_a_file_that_is_not_there_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"can't be read from .*/token"):
        config(tokenFile=str(tmp_path / "token")).read_token()


@pytest.mark.parametrize("members", [{}, {"token": "t", "tokenFile": "/token"}])
def test_there_is_exactly_one_token(members: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="either token or tokenFile"):
        config(**members)


def test_saved_configs_can_be_read_again(tmp_path: Path) -> None:
    router = config(tokenFile="/token", everyAddress=True)
    RouterConfigV1Alpha1.save(router, tmp_path / "east.yaml")
    assert RouterConfigV1Alpha1.from_file(tmp_path / "east.yaml").model_dump() == router.model_dump()
