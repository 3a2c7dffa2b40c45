"""The signature of a release's folder: OpenSSF model signing, by a key pair or by Sigstore.

A signature is a Sigstore bundle over the SHA-256 of every file of the folder, `model.sig` in it.
Whoever has the public key needs no Scion to verify it:

    model_signing verify key RELEASE --signature RELEASE/model.sig --public_key KEY.pem

Form: https://github.com/ossf/model-signing-spec.
"""

import base64
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from model_signing import hashing, signing, verifying

from scion.artifacts.file_tree import FolderTree
from scion.artifacts.release_check import check_release
from scion.artifacts.release_layout import SIGNATURE
from scion.common.bounded_json import parse_json
from scion.common.errors import ScionError
from scion.common.files import atomic_file

KEY_VARIABLE = "SCION_SIGNING_KEY"
"""The file of the private key that signs what the workflow seals."""
PASSWORD_VARIABLE = "SCION_SIGNING_PASSWORD"
"""The password of an encrypted private key."""
# What clients of the hub put beside the files; of git's files the library knows.
_CLIENT_FOLDER = ".cache/huggingface"
_KEY = "a PEM file of a key on P-256, P-384 or P-521"
# Of a signature: a hundred bytes for each of a hundred thousand files.
_MOST_BYTES = 10_000_000
_SEE_HELP = "scion sign --help tells how releases are signed and verified"
_MAKE_KEYS = (
    "a pair of keys is made so: "
    "openssl ecparam -genkey -name prime256v1 -noout -out private.pem && "
    "openssl ec -in private.pem -pubout -out public.pem"
)


def named_private_key(public_key: Path) -> Path:
    """The file that SCION_SIGNING_KEY names.

    Args:
        public_key: PEM file of its other half, to name in the error.

    Raises:
        ScionError: The variable is empty.
    """
    named = os.environ.get(KEY_VARIABLE)
    if named:
        return Path(named)
    raise ScionError(
        "there is no private key to sign with",
        where=f"the variable {KEY_VARIABLE}",
        expected=f"the path of the other half of {public_key}",
        found="nothing",
        hint="set it; or leave attestations.public_key out, and sign with scion sign",
    )


def require_pair(public_key: Path) -> None:
    """Refuse to begin what is to be signed in the end with keys that can't.

    Args:
        public_key: PEM file of the public key, whose other half SCION_SIGNING_KEY names.

    Raises:
        ScionError: A key is not there, can't be used, or they are no pair.
    """
    private, _ = _load_private(named_private_key(public_key))
    if private.public_key() != _load_public(public_key)[0]:
        raise ScionError(
            "the keys are no pair",
            where=f"attestations.public_key: {public_key}",
            expected=f"the public half of the key that {KEY_VARIABLE} names",
            found="that of another",
            hint="openssl ec -in private.pem -pubout -out public.pem",
        )


def require_as_sealed(folder: Path, *, where: Path) -> None:
    """Refuse to sign a release that is not what its manifests say.

    Args:
        folder: The release.
        where: What its user calls it.

    Raises:
        ScionError: A file is another one, missing or new, or manifests do not agree.
    """
    _, problems = check_release(FolderTree(folder))
    if problems:
        raise ScionError(
            "the release is not what its manifests say, and was not signed",
            where=where,
            expected="each file as the stage that made it recorded it",
            found=problems[0] + (f", and {len(problems) - 1} more" if problems[1:] else ""),
            hint=f"scion check {where}",
        )


def sign_with_key(folder: Path, signature: Path, private_key: Path) -> None:
    """Sign a folder with a private key.

    Args:
        folder: The release, whole.
        signature: The file to write.
        private_key: PEM file of a key on P-256, P-384 or P-521, whose password, if it has one, the
            variable SCION_SIGNING_PASSWORD holds.

    Raises:
        ScionError: There is no such key, it is another kind of key, or its password is wrong.
    """
    _, pem = _load_private(private_key)
    with (
        _told("the private key can't be used", private_key, _KEY, hint=_MAKE_KEYS),
        _file_of(pem) as read,
    ):
        config = signing.Config().use_elliptic_key_signer(
            private_key=read,
            # The library hands it on to one that takes bytes.
            password=_password(),  # pyright: ignore[reportArgumentType]
        )
    _sign(config, folder, signature)


def sign_with_sigstore(folder: Path, signature: Path) -> None:
    """Sign a folder in the name of a person or a job of CI, whom Sigstore's servers identify.

    Args:
        folder: The release, whole.
        signature: The file to write.

    Raises:
        ScionError: Nobody was identified, or the servers can't be reached.
    """
    with _told(
        "Sigstore has not signed", folder, "an identity, and Sigstore's servers within reach"
    ):
        config = signing.Config().use_sigstore_signer(use_ambient_credentials="CI" in os.environ)
        _sign(config, folder, signature)


def key_verifier(public_key: Path) -> verifying.Config:
    """What verifies signatures by the owner of a key.

    Args:
        public_key: PEM file of the public key.

    Raises:
        ScionError: There is no such file, or it holds something else.
    """
    _, pem = _load_public(public_key)
    with (
        _told("the public key can't be used", public_key, _KEY, hint=_MAKE_KEYS),
        _file_of(pem) as read,
    ):
        return verifying.Config().use_elliptic_key_verifier(public_key=read)


def identity_verifier(identity: str, issuer: str) -> verifying.Config:
    """What verifies signatures that were made through Sigstore.

    Args:
        identity: Who has to have signed, such as an e-mail address or the URI of a job of CI.
        issuer: Who vouches for that identity: the address of an OpenID Connect provider.

    Raises:
        ScionError: Sigstore's servers can't be reached.
    """
    with _told("Sigstore can't be asked", identity, "its servers within reach"):
        return verifying.Config().use_sigstore_verifier(identity=identity, oidc_issuer=issuer)


def verify(folder: Path, signature: Path, verifier: verifying.Config) -> None:
    """Refuse a folder that is not the one which somebody has signed.

    Args:
        folder: The release.
        signature: Its signature, in it or elsewhere.
        verifier: Who has to have signed it.

    Raises:
        ScionError: There is no signature, somebody else has signed, or a file is another one,
            missing or new.
    """
    with _told("the signature does not hold", signature, "the signer's, of these very files"):
        if signature.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{signature.stat().st_size} bytes, which no signature has")
        # The library refuses a folder that is a link, and takes from the signature which files it
        # leaves out.
        folder = folder.resolve()
        tree = FolderTree(folder)
        if tree.others:
            name, what = next(iter(tree.others.items()))
            raise ValueError(f"{name} is {what}, which nobody signs")
        if any((folder / name).is_symlink() for name in tree.files):
            # The cache of the hub's client, the one place whose links a tree follows.
            verifier.set_hashing_config(hashing.Config().set_allow_symlinks(allow_symlinks=True))
        verifier.verify(folder, signature)
        left_out = sorted(tree.files.keys() - _signed(signature))
        if left_out:
            raise ValueError(f"{len(left_out)} files are not signed, such as {left_out[0]}")


def _password() -> bytes | None:
    return os.environ.get(PASSWORD_VARIABLE, "").encode() or None


def _load_private(path: Path) -> tuple[EllipticCurvePrivateKey, bytes]:
    """A private key, and its PEM; read once, for it may come through a pipe."""
    hint = f"the password of a locked key stands in {PASSWORD_VARIABLE}; {_MAKE_KEYS}"
    with _told("the private key can't be used", path, _KEY, hint=hint):
        pem = path.read_bytes()
        if b"PUBLIC KEY-----" in pem and b"PRIVATE KEY-----" not in pem:
            raise ValueError("the public half of a pair")
        key = load_pem_private_key(pem, _password())
        # The library has errors of Python's own for keys of other kinds.
        if not isinstance(key, EllipticCurvePrivateKey):
            raise ValueError(f"another kind of key, {type(key).__name__}")
        _require_curve(key)
        return key, pem


def _load_public(path: Path) -> tuple[EllipticCurvePublicKey, bytes]:
    """A public key, and its PEM."""
    with _told("the public key can't be used", path, _KEY, hint=_MAKE_KEYS):
        pem = path.read_bytes()
        if b"PRIVATE KEY-----" in pem:
            raise ValueError("the private half of a pair, which nobody else should have")
        key = load_pem_public_key(pem)
        if not isinstance(key, EllipticCurvePublicKey):
            raise ValueError(f"another kind of key, {type(key).__name__}")
        _require_curve(key)
        return key, pem


def _require_curve(key: EllipticCurvePrivateKey | EllipticCurvePublicKey) -> None:
    if not isinstance(key.curve, SECP256R1 | SECP384R1 | SECP521R1):
        raise ValueError(f"a key on the curve {key.curve.name}")


@contextmanager
def _file_of(pem: bytes) -> Generator[Path]:
    """A file of this process alone, on no disk, for a library that reads keys from files."""
    descriptor = os.memfd_create("key")
    try:
        os.write(descriptor, pem)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _sign(config: signing.Config, folder: Path, signature: Path) -> None:
    ignored = hashing.Config().set_ignored_paths(paths=[SIGNATURE, _CLIENT_FOLDER])
    with _told("the folder can't be signed", folder, "readable files, and no links"):
        # The library writes in place, and what is half written must not lie in the folder.
        with TemporaryDirectory() as work:
            made = Path(work, SIGNATURE)
            config.set_hashing_config(ignored).sign(folder, made)
            content = made.read_bytes()
        with atomic_file(signature) as file:
            file.write(content)


def _signed(signature: Path) -> set[str]:
    """The names of the files that a signature is of."""
    envelope = parse_json(signature.read_bytes())["dsseEnvelope"]
    statement = parse_json(base64.b64decode(envelope["payload"]))
    return {entry["name"] for entry in statement["predicate"]["resources"]}


@contextmanager
def _told(problem: str, where: object, expected: str, *, hint: str = _SEE_HELP) -> Generator[None]:
    """Tell of whatever the libraries raise of keys, signatures and folders of others."""
    try:
        # What they print is no part of a report.
        with redirect_stdout(sys.stderr):
            yield
    except ScionError:
        raise
    # They document no errors; those seen are of seven classes, of three libraries.
    except Exception as error:
        raise ScionError(
            problem,
            where=where,
            expected=expected,
            found=str(error) or type(error).__name__,
            hint=hint,
        ) from error
