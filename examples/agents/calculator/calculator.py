"""The environment of the example: a calculator that multiplies. It is written as for TRL's `environment_factory`."""


class Calculator:
    def reset(self, **row) -> None:
        pass

    def mul(self, a: int, b: int) -> str:
        """Multiplies two numbers.

        Args:
            a: the first number.
            b: the second number.
        """
        return str(a * b)
