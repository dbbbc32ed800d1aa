"""A port that was reserved is had by the server that it is for, and by nobody else."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pytest_autotune.serving.ports import PortReservation


@pytest.fixture
def reserve() -> Iterator[type[PortReservation]]:
    """Reservations that are given up in the end."""
    with ExitStack() as stack:

        class Kept(PortReservation):
            def __init__(self, host: str = "127.0.0.1") -> None:
                super().__init__(host)
                stack.callback(self.release)

        yield Kept


def test_a_server_can_listen_on_a_reserved_port(reserve: type[PortReservation]) -> None:
    port = reserve().port
    with (
        # It sets address reuse, as servers do.
        socket.create_server(("127.0.0.1", port)) as server,
        socket.create_connection(("127.0.0.1", port), timeout=5) as client,
    ):
        peer, _ = server.accept()
        with peer:
            client.sendall(b"hi")
            assert peer.recv(2) == b"hi"


def test_a_server_may_listen_on_all_addresses(reserve: type[PortReservation]) -> None:
    port = reserve().port
    with (
        socket.create_server(("0.0.0.0", port)),  # noqa: S104 - a port is taken
        socket.create_connection(("127.0.0.1", port), timeout=5),
    ):
        pass


def test_a_server_of_another_process_can_listen(reserve: type[PortReservation]) -> None:
    port = reserve().port
    code = f"""
import asyncio
async def main():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", {port})
    print("up", flush=True)
    server.close()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "up\n", done.stderr


def test_a_server_can_come_back_after_it_had_connections(reserve: type[PortReservation]) -> None:
    port = reserve().port
    for _ in range(3):
        with socket.create_server(("127.0.0.1", port)) as server:
            client = socket.create_connection(("127.0.0.1", port), timeout=5)
            peer, _ = server.accept()
            # The server's side closes first, and so waits in TIME_WAIT.
            peer.close()
            client.close()


def test_nothing_listens_on_a_port_that_is_only_reserved(reserve: type[PortReservation]) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", reserve().port), timeout=5)


def test_reservations_are_distinct(reserve: type[PortReservation]) -> None:
    ports = [reserve().port for _ in range(200)]
    assert len(set(ports)) == 200
    assert all(1024 <= port < 65536 for port in ports)


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - a port is taken
def test_who_asks_for_any_port_never_gets_a_reserved_one(
    reserve: type[PortReservation], host: str, *, reuse: bool
) -> None:
    reserved = {reserve().port for _ in range(100)}
    with ExitStack() as stack:
        for _ in range(300):
            other = stack.enter_context(socket.socket())
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
            other.bind((host, 0))
            assert other.getsockname()[1] not in reserved


def test_clients_do_not_leave_from_a_reserved_port(reserve: type[PortReservation]) -> None:
    reserved = {reserve().port for _ in range(100)}
    with socket.create_server(("127.0.0.1", 0), backlog=300) as server, ExitStack() as stack:
        for _ in range(200):
            client = stack.enter_context(socket.create_connection(server.getsockname(), timeout=5))
            assert client.getsockname()[1] not in reserved


def test_a_port_is_free_after_its_release() -> None:
    reservation = PortReservation()
    reservation.release()
    reservation.release()
    with socket.socket() as other:
        # Without address reuse: nobody else has it.
        other.bind(("127.0.0.1", reservation.port))


def test_a_reservation_keeps_others_from_just_taking_the_port(
    reserve: type[PortReservation],
) -> None:
    port = reserve().port
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))


def test_a_reservation_is_not_left_to_child_processes(reserve: type[PortReservation]) -> None:
    assert not reserve()._socket.get_inheritable()
