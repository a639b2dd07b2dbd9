"""TLS with own roots, a name that differs from the address, and a client certificate."""

from __future__ import annotations

import grpc
import pytest
import trustme
from bridge import KINDS, connect
from flaky import DELTA, FINISHED, STARTED, serving

from paternoster import Retry, Tls, Unavailable

ONCE = Retry(attempts=1)


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_show_a_certificate(kind: str) -> None:
    ca, stranger = trustme.CA(), trustme.CA()
    server, user = ca.issue_cert("lift.example"), ca.issue_cert("user@lift.example")
    credentials = grpc.ssl_server_credentials(
        [(server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())],
        ca.cert_pem.bytes(),
        require_client_auth=True,
    )
    good = Tls(
        ca.cert_pem.bytes(),
        user.private_key_pem.bytes(),
        user.cert_chain_pems[0].bytes(),
        "lift.example",
    )
    bad = [
        True,
        Tls(stranger.cert_pem.bytes(), server_name="lift.example"),
        Tls(ca.cert_pem.bytes(), server_name="lift.example"),
        Tls(good.root_certificates, good.private_key, good.certificate_chain),
    ]
    script = [[STARTED, DELTA, FINISHED]]
    with serving(script, credentials) as (_, address):
        for tls in bad:
            with (
                connect(kind, address, tls=tls, retry=ONCE, timeout=10) as client,
                pytest.raises(Unavailable),
            ):
                client.generate("x")
        with connect(kind, address, tls=good) as client:
            assert client.generate("x").text == "ab"
