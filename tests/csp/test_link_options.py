"""Naming a link on a command line."""

from __future__ import annotations

import argparse

import pytest

from csp.errors import MisuseError
from csp.links.options import HubAddress, add_link_options, open_link
from csp.links.udp import UdpLink


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_link_options(parser, address=20)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("text", "host", "sub_port", "pub_port"),
    [("localhost", "localhost", 6000, 7000), ("10.0.0.1:6100:7100", "10.0.0.1", 6100, 7100)],
)
def test_hub_address(text: str, host: str, sub_port: int, pub_port: int) -> None:
    hub = HubAddress.parse(text)
    assert (hub.host, hub.sub_port, hub.pub_port) == (host, sub_port, pub_port)
    assert HubAddress.parse(str(hub)) == hub


@pytest.mark.parametrize("text", ["", ":1:2", "h:1", "h:1:2:3", "h:a:b", "h:0:7000", "h:1:70000"])
def test_a_bad_hub_address_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not HOST|ports are"):
        HubAddress.parse(text)


def test_udp_is_chosen_and_the_rest_has_defaults() -> None:
    options = parse("--udp", "127.0.0.1:4000:0")
    assert (options.address, options.csp_version, options.netmask) == (20, 2, 8)
    link = open_link(options)
    assert isinstance(link, UdpLink)
    link.close()


@pytest.mark.parametrize(
    "words",
    [
        ("--udp", "nonsense"),
        ("--udp", "h:a:b"),
        ("--hub", "x:y"),
        ("--kiss", "/dev/nothing@9"),
        ("--can", "no_such_can0"),
    ],
)
def test_a_link_that_cannot_be_is_named(words: tuple[str, ...]) -> None:
    with pytest.raises(MisuseError):
        open_link(parse(*words))


def test_two_links_at_once_are_wrong_use() -> None:
    with pytest.raises(SystemExit):
        parse("--udp", "h:1:2", "--kiss", "/dev/x")
