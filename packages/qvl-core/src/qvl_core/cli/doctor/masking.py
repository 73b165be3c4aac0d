"""Take out of a text what tells who and where somebody is, and what would let others in. Pure.

The same name or address becomes the same word everywhere, so that a reader still sees what is equal.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping

# Of what a name says that its value is a secret.
SECRET_NAME = re.compile(
    r"(?i)TOKEN(?!S|I)|SECRET|PASSW|[^D]_PWD$|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|(?:^|_)(?:KEY|AUTH)(?:$|_)|COOKIE"
)
# Prefixes of access tokens of Hugging Face, OpenAI, GitHub, GitLab, AWS, Slack, Google and ModelScope; JSON web tokens.
_TOKENS = re.compile(
    r"hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|A[KS]IA[0-9A-Z]{16}|xox[abpr]-[\w-]{10,}|AIza[\w-]{30,}|ms-[0-9a-f]{8}-[0-9a-f-]{20,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]+)?|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
# `password = "x"`, `--token x` has no sign between: told by the name that ends in one of these words.
_STATED = re.compile(
    r"""(?ix)([\w.-]*(?:token|secret|passw(?:or)?d|passwd|api[_-]?key|access[_-]?key|private[_-]?key|credential
    |authorization)["']?\s*(?:[:=]\s*|\s(?=[^\s:=]*\d)))(["']?)([^\s"',;|]{4,})"""
)
_OPTION = re.compile(r"(?i)(--?[\w-]*(?:token|secret|passw(?:or)?d|passwd|api-?key|access-?key)[ =])([^\s\"',;<]+)")
_URL_USER = re.compile(r"(?<=://)[^/\s@'\"]+@")
_MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_HOMES = re.compile(r"(/(?:home|Users)/)[^/\s'\":;,]+")
_MAC = re.compile(r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:])")
_IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)")
# What stands before four numbers that are a version: a package that is compared, or the words of npu-smi and our rows.
_COMPARED = re.compile(r"([A-Za-z][\w.-]*)(?:\[[\w,.-]*\])?\s?(?:[=~><!]=[^\s;'\"]*,)?(?:==|~=|>=|<=|!=)\s?$")
_VERSIONED = re.compile(
    r"(?:(?<![\w-])(?:npu-smi|CANN|MindSpore|toolkit|operators(?: \(opp\))?|[Vv]ersion)\s*[:=]?\s*"
    r"|(?:^|, |pairs with .{1,40} and )driver |driver and firmware to |(?:ascend-toolkit/|/cann-)"
    r"|needs [A-Za-z][\w.-]*[=~><!][^\s;]*, found )$"
)
# `ip.addr==10.0.0.1` compares no package.
_ADDRESSED = re.compile(r"(?i)(?:ip(?:v?4)?|ifname|addr(?:ess)?|host|node|server|master|src|dst|peer|url)s?\d*$")
_BEFORE = 120
_OWN_ADDRESS = re.compile(r"(?<![\w./-])(?:\w+://)?(?:[^\s/@]{1,200}@)?(\d{1,3}(?:\.\d{1,3}){3})(?![\w.-])")
_IPV6 = re.compile(r"(?<![A-Za-z0-9:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:%\w+)?(?![\w:])")
# Long, of mixed letters and digits: a key of a kind that is not known. Digests are of one case, and kept.
_LONG = re.compile(r"(?<![\w/+-])(?=[\w+/=-]*[a-z])(?=[\w+/=-]*[A-Z])(?=[\w+=-]*\d)[A-Za-z0-9_+=-]{32,}(?![\w/+-])")
# Names that tell nothing about anybody.
_COMMON = ("root", "localhost", "ubuntu", "user", "home", "data", "work", "node", "master", "python", "qvl")
_SHORTEST_SECRET = 6


class Mask:
    """Masks texts by what is known of this machine: its user, home folder, host names, and secrets in its shell."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        users: Iterable[str] = (),
        hosts: Iterable[str] = (),
        home: str = "",
        versions: Mapping[str, str] | None = None,
    ) -> None:
        secrets = {value for name, value in environment.items() if SECRET_NAME.search(name)}
        self._secrets = sorted((one for one in secrets if len(one) >= _SHORTEST_SECRET), key=len, reverse=True)
        self._home = home.rstrip("/")
        self._users = _words(users)
        hosts = list(hosts)
        values = [value for name, value in environment.items() if "VERSION" not in name]
        # Of what is an address for certain, no version is made, wherever it stands.
        self._certain = {each[1] for text in (*values, *hosts) for each in _OWN_ADDRESS.finditer(text)}
        self._versions = {name.lower(): version for name, version in (versions or {}).items()}
        self._hosts = _words([part for host in hosts for part in (host, host.partition(".")[0])])
        self._seen: dict[str, str] = {}

    def text(self, text: str) -> str:
        """Give the text without them."""
        for secret in self._secrets:
            text = text.replace(secret, "<secret>")
        text = _TOKENS.sub("<token>", text)
        text = _BEARER.sub(r"\1 <token>", text)
        text = _OPTION.sub(r"\1<secret>", text)
        text = _STATED.sub(_stated, text)
        text = _URL_USER.sub("<user>@", text)
        text = _MAIL.sub("<mail>", text)
        text = _LONG.sub("<secret>", text)
        if len(self._home) > 1:
            text = re.sub(rf"{re.escape(self._home)}(?![\w.-])", "~", text)
        text = _HOMES.sub(r"\1<user>", text)
        for host in self._hosts:
            text = re.sub(
                rf"(?<![A-Za-z0-9-]){re.escape(host)}(?![A-Za-z0-9-])", self._one("host"), text, flags=re.IGNORECASE
            )
        for user in self._users:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(user)}(?![A-Za-z0-9])", "<user>", text)
        text = _MAC.sub(self._one("address"), text)
        text = _IPV4.sub(self._address, text)
        return _IPV6.sub(self._address, text)

    def value(self, value: object, name: str = "") -> object:
        """Give a value of JSON or TOML masked, and texts under a name of a secret left out whole."""
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(inner, str(key)) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(inner, name) for inner in value]
        if not isinstance(value, str):
            return value
        return "<secret>" if value and SECRET_NAME.search(name) else self.text(value)

    def _address(self, found: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(found[0].partition("%")[0])
        except ValueError:
            return found[0]
        if address.is_loopback or address.is_unspecified or self._is_version(found, is_global=address.is_global):
            return found[0]
        return self._one("address")(found)

    def _is_version(self, found: re.Match[str], *, is_global: bool) -> bool:
        """Tell whether four numbers are a version, by what stands before them. In doubt they are an address."""
        if found[0] in self._certain or re.match(r"[:/]\d|%", found.string[found.end() :]):
            return False
        before = found.string[max(0, found.start() - _BEFORE) : found.start()].rpartition("\n")[2]
        compared = _COMPARED.search(before)
        if compared and not _ADDRESSED.search(compared[1]):
            return True
        name = re.search(r"([\w.-]+)[ =]{1,2}$", before)
        if name and self._versions.get(name[1].lower()) == found[0]:
            return True
        # No driver or CANN has a version that begins as networks of one's own do.
        return is_global and bool(_VERSIONED.search(before))

    def _one(self, kind: str) -> Callable[[re.Match[str]], str]:
        def word(found: re.Match[str]) -> str:
            key = f"{kind} {found[0].lower()}"
            number = 1 + sum(other.startswith(f"{kind} ") for other in self._seen)
            return self._seen.setdefault(key, f"<{kind}-{number}>")

        return word


def _stated(found: re.Match[str]) -> str:
    return found[0] if found[3].startswith("<") else f"{found[1]}{found[2]}<secret>"


def _words(names: Iterable[str]) -> list[str]:
    """Give the names that are worth looking for, the longest first: it may hold a shorter one."""
    kept = {name for name in names if len(name) > 1 and name.lower() not in _COMMON and not _is_address(name)}
    return sorted(kept, key=len, reverse=True)


def _is_address(name: str) -> bool:
    return bool(re.fullmatch(r"[\d.]+", name))
