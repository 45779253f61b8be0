"""The identity provider does what tests rely on."""

import base64
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request

import pytest

pytestmark = pytest.mark.daemon


def claims(token):
    return json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))


def post(provider, path, **form):
    context = ssl.create_default_context(cafile=str(provider.ca_file))
    body = urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(f"{provider.issuer}{path}", body, timeout=10, context=context) as answer:
        return json.load(answer)


def test_a_password_brings_access_token_and_identity_token_with_the_users_claims(identity_provider):
    tokens = identity_provider.tokens("alice")

    access, identity = claims(tokens["access_token"]), claims(tokens["id_token"])
    assert (access["iss"], access["aud"]) == (identity_provider.issuer, "jumpstarter")
    assert access["preferred_username"] == identity["preferred_username"] == "alice"
    assert identity["aud"] == identity_provider.client_id
    assert access["groups"] == ["developers"]


def test_a_wrong_password_is_refused(identity_provider):
    with pytest.raises(urllib.error.HTTPError) as caught:
        identity_provider.tokens("alice", "wrong")

    assert json.load(caught.value)["error"] == "invalid_grant"


def test_a_refresh_token_brings_another_access_token(identity_provider):
    refresh = identity_provider.tokens("alice")["refresh_token"]
    form = {"grant_type": "refresh_token", "client_id": identity_provider.client_id, "refresh_token": refresh}

    assert claims(post(identity_provider, "/token", **form)["access_token"])["sub"] == "alice"


def test_a_device_waits_for_its_user(identity_provider):
    client = {"client_id": identity_provider.client_id}
    started = post(identity_provider, "/device/auth", **client, scope="openid")
    grant = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": started["device_code"]}

    with pytest.raises(urllib.error.HTTPError) as caught:
        post(identity_provider, "/token", **client, **grant)

    assert json.load(caught.value)["error"] == "authorization_pending"


def test_a_restart_changes_the_keys(run_identity_provider):
    with run_identity_provider() as provider:
        before = provider.access_token("alice")
        provider.stop()
        provider.start()
        after = provider.access_token("alice")

    def kid(token):
        return json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["kid"]

    assert kid(before) != kid(after)
