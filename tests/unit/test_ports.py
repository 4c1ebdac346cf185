import os
import socket

import pytest

from remix_study.ports import listens, reserved


def test_a_reserved_port_is_given_to_no_one_who_does_not_name_it() -> None:
    with reserved("127.0.0.1", 0) as port, socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


def test_a_server_can_listen_on_its_reserved_port_and_is_recognised() -> None:
    group = os.getpgid(0)
    with reserved("127.0.0.1", 0) as port:
        assert not listens(group, port)
        with socket.create_server(("127.0.0.1", port)):
            assert listens(group, port)
            assert not listens(1, port)
        assert not listens(group, port)


def test_a_port_on_which_another_process_listens_cannot_be_reserved() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(OSError, match="in use"),
        reserved("127.0.0.1", server.getsockname()[1]),
    ):
        pass
