"""Errors of who may do what."""

from __future__ import annotations

from runyard_contract.errors.base import EXIT_AUTH, RunyardError


class Denied(RunyardError):
    """Group: the caller is not who may do this."""

    exit_code = EXIT_AUTH


class Unauthenticated(Denied):
    """There is no valid token or certificate. Never says what is wrong with the one there is."""

    reason = "UNAUTHENTICATED"
    code = "UNAUTHENTICATED"


class PermissionDenied(Denied):
    """The caller is known, and may not. Metadata: `role`, `method`."""

    reason = "PERMISSION_DENIED"
    code = "PERMISSION_DENIED"


class UntrustedDaemon(Denied):
    """What answers is not the daemon that is trusted. Metadata: `address`."""

    reason = "UNTRUSTED_DAEMON"
    code = "UNAUTHENTICATED"
    is_local = True


class CredentialsUnusable(Denied):
    """The file with a person's tokens can't be used. Metadata: `path`."""

    reason = "CREDENTIALS_UNUSABLE"
    code = "UNAUTHENTICATED"
    is_local = True
