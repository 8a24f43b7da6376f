"""Why a login by single sign-on has failed."""

from __future__ import annotations

from ojs_cluster.ui.languages.translate import later


class SignOnFailed(Exception):
    """A login by OpenID Connect has failed.

    Attributes:
        message: what the login page says, in English, without texts of the browser or the provider.
        reason: what the log says to operators, without a secret, a code or a token.
        status: the status of the response.
        is_repeated: whether the log has the reason already.
    """

    is_repeated = False

    def __init__(self, message: str, reason: str, status: int = 401) -> None:
        super().__init__(reason)
        self.message = message
        self.reason = reason
        self.status = status

    def repeated(self) -> SignOnFailed:
        """Return the same failure for another login."""
        failure = SignOnFailed(self.message, self.reason, self.status)
        failure.is_repeated = True
        return failure


def unusable(reason: str) -> SignOnFailed:
    """Return the failure of a login because of the provider or of the configuration."""
    message = later("Single sign-on does not work now. Try again, or use an API key.")
    return SignOnFailed(message, reason, 503)


def refused(reason: str) -> SignOnFailed:
    """Return the failure of a login whose proof is not valid."""
    message = later(
        "The identity provider did not confirm your login. Try again, or ask the operator."
    )
    return SignOnFailed(message, reason)
