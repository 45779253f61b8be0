"""The client of the board."""

from jumpstarter.client import DriverClient


class BoardClient(DriverClient):
    """Uses the board in the name of a lease."""

    def use(self, lease: str) -> str:
        result: str = self.call("use", lease)
        return result

    def hold(self, lease: str) -> str:
        result: str = self.call("hold", lease)
        return result
