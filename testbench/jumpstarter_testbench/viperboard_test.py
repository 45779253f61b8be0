"""The Viperboard in software, as the GPIO chips that Linux makes of it."""

import pytest

from jumpstarter_testbench.viperboard import Viperboard

pytestmark = pytest.mark.lab_guest


@pytest.mark.parametrize("port", ["a", "b"])
def test_lines_carry_levels_both_ways(port):
    import gpiod
    from gpiod.line import Direction, Value

    output = gpiod.LineSettings(direction=Direction.OUTPUT, output_value=Value.ACTIVE)
    with Viperboard() as board, gpiod.request_lines(board.chip(port), {3: output, 4: None}) as lines:
        assert board.level(3, port) is True
        lines.set_value(3, Value.INACTIVE)
        assert board.level(3, port) is False

        assert lines.get_value(4) is Value.INACTIVE
        board.drive(4, True, port)
        assert lines.get_value(4) is Value.ACTIVE


def test_an_unplugged_board_fails_and_works_again():
    import gpiod

    with Viperboard() as board:
        with gpiod.request_lines(board.chip(), {1: None}) as lines:
            board.unplug()
            with pytest.raises(OSError, match="No such device"):
                lines.get_value(1)
        board.plug()
        board.drive(1, True)
        with gpiod.request_lines(board.chip(), {1: None}) as lines:
            assert lines.get_value(1) is gpiod.line.Value.ACTIVE
