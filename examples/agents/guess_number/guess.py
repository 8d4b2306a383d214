"""The environment of the example: a number from 0 to 99 is to be guessed; each guess is answered by higher or lower."""


class Guess:
    def __init__(self, tries: int = 10) -> None:
        self.tries = tries

    def reset(self, number: int) -> None:
        self.number, self.used, self.found = number, 0, False

    def reply(self, text: str) -> str | None:
        self.used += 1
        guess = int(text) if text.isdecimal() and len(text) < 4 else -1
        self.found = guess == self.number
        if self.found or self.used == self.tries:
            return None
        return "?" if not 0 <= guess <= 99 else ">" if guess < self.number else "<"

    def get_reward(self) -> float:
        """1 for a first guess that is right, less for each further one, 0 without success."""
        return 1 - (self.used - 1) / self.tries if self.found else 0.0
