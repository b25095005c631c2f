"""What an API server's refusal means, and what to do about it. Pure."""

from __future__ import annotations

import httpx

from adapters.kubernetes.roles import need_of, role_lines
from state.words import AirbossError, Conflict, Denied, OperationFailed, Unreachable

ADMISSION = ("admission webhook", "violates PodSecurity", "exceeded quota", "ValidatingAdmissionPolicy", "failed quota")
"""How admission says no: with a 403, as if it were a permission."""


def error_of(answer: httpx.Response, verb: str, path: str, *, tests: bool = False) -> AirbossError:
    """The error an answer of 400 or more stands for; `tests`: the request was a patch that tested something first."""
    try:
        said = str(answer.json().get("message") or "")
    except (ValueError, AttributeError):
        said = answer.text[:300]
    what, status = said_path(path), answer.status_code
    if status == 401:
        return Denied(
            f"the cluster does not know us: {said or 'credentials expired'}",
            hint="log in again (kubectl, or the exec plugin); they are read anew at the next try, nothing is lost",
            code="kube_credentials",
        )
    if status == 403:
        if any(word in said for word in ADMISSION):
            return Denied(
                f"the cluster's admission refuses {what}: {said}",
                hint="change the pods ([service.X.kubernetes]), or the quota or policy that says so",
                code="kube_admission",
            )
        return Denied(
            f"not allowed: {verb} {what}: {said}",
            hint=_grant(verb, path),
            code="kube_forbidden",
        )
    if status == 409:
        return Conflict(
            f"{what}: {said}",
            hint="a field is another's (Argo CD, Helm, an autoscaler): nothing was forced; let it go, or lower `ownership`",
            code="kube_conflict",
        )
    if status == 422 and tests:
        return Conflict(f"{what} has moved: {said}", hint="it is read again and tried anew", code="kube_moved")
    if status == 429 or status >= 500:
        return Unreachable(f"the API server answered {status} to {verb} {what}: {said}", hint="it is tried again")
    if status == 404:
        return OperationFailed(f"there is no {what}: {said}", hint="is its kind installed, and the namespace there?")
    return OperationFailed(f"{verb} {what} was refused ({status}): {said}", hint="the message is the cluster's own")


def _grant(verb: str, path: str) -> str:
    need = need_of(verb, path)
    if need is None:
        return f"grant the verb {verb!r} (`airboss help kubernetes` has the Roles)"
    return f"the Role lacks {role_lines([need])[0].removeprefix('- ')} (`airboss help kubernetes` has all of it)"


def said_path(path: str) -> str:
    """`/apis/apps/v1/namespaces/ml/deployments/chat-1/scale` → `deployments/chat-1/scale in ml`."""
    parts = path.strip("/").split("/")
    if "namespaces" in parts and len(parts) > parts.index("namespaces") + 2:
        at = parts.index("namespaces")
        return f"{'/'.join(parts[at + 2 :])} in {parts[at + 1]}"
    return "/".join(parts[2:] if parts[0] == "api" else parts[3:])
