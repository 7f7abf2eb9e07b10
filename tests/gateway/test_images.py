"""From what a task says to the bytes of the image: addresses, tokens, redirects, limits."""

import asyncio
import base64
import contextlib
import socket

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from gateway_support import LEGACY_TOKEN, jwt, recorded
from sam_gateway.addresses import AddressPolicy, CheckedResolver
from sam_gateway.config import AllowedHosts, Config, parse_config
from sam_gateway.errors import (
    ImageRefusedError,
    ImageUnavailableError,
    InvalidRequestError,
    LabelStudioAuthError,
)
from sam_gateway.images import ImageFetcher, decode_data_uri, image_value, locate
from sam_gateway.label_config import ImageTag
from sam_gateway.label_studio import LabelStudio
from sam_gateway.prompts import Task

UPLOAD = "/data/upload/1/18d1a805-a.jpg"
FIELD = "tasks[0].data.image"
TASK = Task(7, {}, "tasks[0]", project=3)
NOBODY = AllowedHosts()
LOOPBACK = parse_config([], {"ALLOWED_IMAGE_HOSTS": "127.0.0.0/8, localhost"}).allowed_image_hosts


class Opened:
    """A fetcher with what it stands on."""

    def __init__(self, *, allowed=NOBODY, max_bytes=10**7, timeout_s=20.0, **settings):
        self.policy = AddressPolicy(allowed)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=CheckedResolver(self.policy))
        )
        self.label_studio = LabelStudio(Config(**settings), self.session, self.policy)
        self.fetcher = ImageFetcher(
            self.session,
            self.label_studio,
            self.policy,
            max_bytes=max_bytes,
            timeout_s=timeout_s,
            retry_delays_s=(0, 0),
        )

    async def fetch(self, value):
        return await self.fetcher.fetch(locate(str(value), TASK, FIELD, self.label_studio.url))


@pytest.fixture
async def open_fetcher():
    opened = []

    def open_one(**settings):
        opened.append(Opened(**settings))
        return opened[-1]

    yield open_one
    for one in opened:
        await one.session.close()


@pytest.fixture
async def elsewhere():
    """Another server than Label Studio: what it was asked, and what it answers by path."""
    answers = {}
    asked = []

    async def answer(request):
        asked.append((request.raw_path, request.headers.get("Authorization")))
        return await answers[request.path](request)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    server = TestServer(app)
    server.answers, server.asked = answers, asked
    async with server:
        yield server


def answering(*responses):
    """A handler that answers with each response in turn, and with the last one for ever."""
    left = [*responses]

    async def answer(request):
        del request
        make = left.pop(0) if len(left) > 1 else left[0]
        return make()

    return answer


def image(body=b"image"):
    return lambda: web.Response(body=body)


def status(code, **headers):
    return lambda: web.Response(status=code, headers=headers)


# Where the image is


@pytest.mark.parametrize(
    ("value", "base", "expected"),
    [
        (UPLOAD, "http://ls:8080", "http://ls:8080/data/upload/1/18d1a805-a.jpg"),
        ("data/upload/1/a.jpg", "http://ls:8080", "http://ls:8080/data/upload/1/a.jpg"),
        ("/data/upload/1/ä b.jpg", "http://ls", "http://ls/data/upload/1/%C3%A4%20b.jpg"),
        (
            "/data/local-files/?d=a%20b%2Fc.jpg",
            "http://ls",
            "http://ls/data/local-files/?d=a%20b%2Fc.jpg",
        ),
        (UPLOAD, "https://h/labelstudio", f"https://h/labelstudio{UPLOAD}"),
        (f"/labelstudio{UPLOAD}", "https://h/labelstudio", f"https://h/labelstudio{UPLOAD}"),
        ("https://x.org/a?sig=a%2Bb", "http://ls", "https://x.org/a?sig=a%2Bb"),
        ("HTTP://x.org/a b.jpg", None, "http://x.org/a%20b.jpg"),
        (
            "s3://bkt/dir/a b.jpg",
            "http://h/labelstudio",
            "http://h/labelstudio/tasks/7/resolve/?fileuri=czM6Ly9ia3QvZGlyL2EgYi5qcGc=",
        ),
        (
            "azure_spi://box/ä.jpg",
            "http://ls",
            "http://ls/tasks/7/resolve/?fileuri=YXp1cmVfc3BpOi8vYm94L8OkLmpwZw==",
        ),
        (
            "/tasks/5/resolve/?fileuri=czM6Ly9ia3QvYQ==",
            "http://ls",
            "http://ls/tasks/5/resolve/?fileuri=czM6Ly9ia3QvYQ==",
        ),
        # Scheme-relative, as a browser would read it: here it stays a path.
        ("//evil.example/a.jpg", "http://ls", "http://ls/evil.example/a.jpg"),
        ("@evil.example/a.jpg", "http://ls", "http://ls/@evil.example/a.jpg"),
        (":8080/a.jpg", "http://ls", "http://ls/:8080/a.jpg"),
    ],
)
def test_a_value_has_an_address(value, base, expected):
    source = locate(value, TASK, FIELD, URL(base) if base else None)

    assert str(source.url) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("s3://bucket/dir/a b.jpg", "s3://bucket/dir/a b.jpg is to be had from Label Studio: set"),
        (
            "hdfs://bucket/b.png?signature=secret",
            "hdfs://bucket/b.png cannot be fetched; supported",
        ),
        ("ftp://user:secret@h/a", "ftp://h/a cannot be fetched"),
        ("file:///etc/passwd", "file:///etc/passwd cannot be fetched"),
        ("javascript:alert(1)", "cannot be fetched"),
        ("http://", "is not an address"),
        ("http:///a.jpg", "is not an address"),
        ("http://h:99999/a?token=secret", "is not an address"),
        ("http://[::1/a", "is not an address"),
        (UPLOAD, "set LABEL_STUDIO_URL"),
    ],
)
def test_what_cannot_be_fetched_is_refused_with_its_name(value, message):
    with pytest.raises(ImageRefusedError) as caught:
        locate(value, TASK, FIELD, None)

    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.field == FIELD


def task(**data):
    return Task(1, data, "tasks[0]")


@pytest.mark.parametrize(
    ("data", "key", "index", "expected"),
    [
        ({"image": " /a.jpg "}, "image", None, ("/a.jpg", "tasks[0].data.image")),
        ({"a": {"b": "/x"}}, "a.b", None, ("/x", "tasks[0].data.a.b")),
        ({"a.b": "/x"}, "a.b", None, ("/x", "tasks[0].data.a.b")),
        ({"pages": ["/0", "/1"]}, "pages", 1, ("/1", "tasks[0].data.pages[1]")),
        ({"pages": ["/0", "/1"]}, "pages", None, ("/0", "tasks[0].data.pages[0]")),
    ],
)
def test_the_tag_says_where_in_the_task_the_image_is(data, key, index, expected):
    assert image_value(task(**data), ImageTag("image", key), index) == expected


@pytest.mark.parametrize(
    ("data", "index", "field"),
    [
        ({}, None, "tasks[0].data.image"),
        ({"image": None}, None, "tasks[0].data.image"),
        ({"image": ""}, None, "tasks[0].data.image"),
        ({"image": 5}, None, "tasks[0].data.image"),
        ({"image": {"url": "/a"}}, None, "tasks[0].data.image"),
        ({"image": []}, None, "tasks[0].data.image"),
        ({"image": ["/a"]}, 1, "tasks[0].data.image"),
        ({"image": ["/a", 5]}, 1, "tasks[0].data.image[1]"),
    ],
)
def test_a_task_without_the_image_is_refused(data, index, field):
    with pytest.raises(InvalidRequestError) as caught:
        image_value(task(**data), ImageTag("image", "image"), index)

    assert caught.value.field == field


def test_a_data_uri_holds_the_image():
    encoded = base64.b64encode(b"image").decode()

    assert decode_data_uri(f"data:image/png;base64,{encoded}", 5) == b"image"
    assert decode_data_uri(f"DATA:image/png;BASE64,{encoded.replace('=', '%3D')}", 5) == b"image"
    assert decode_data_uri("data:image/svg,%69mage", 5) == b"image"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("data:image/png;base64", "not a data URI"),
        ("data:image/png;base64,a", "not a data URI"),
        ("data:image/png;base64,????", "not a data URI"),
        ("data:image/png;base64," + "A" * 100, "MAX_IMAGE_BYTES"),
        ("data:image/png;base64,AAAAAAAA", "MAX_IMAGE_BYTES"),
        ("data:,123456", "MAX_IMAGE_BYTES"),
        ("data:," + "1" * 100, "MAX_IMAGE_BYTES"),
    ],
)
def test_a_data_uri_that_holds_none_is_refused(value, message):
    with pytest.raises(ImageRefusedError, match=message):
        decode_data_uri(value, 5)


async def test_equal_data_uris_are_the_same_image(open_fetcher):
    first, second = (locate(f"data:,{text}", TASK, FIELD, None) for text in ("a", "b"))

    assert first.identity != second.identity
    assert first.identity == locate("data:,a", TASK, FIELD, None).identity
    assert await open_fetcher().fetch("data:,a") == b"a"


# Tokens


async def test_an_upload_is_fetched_with_the_legacy_token(label_studio, open_fetcher):
    opened = open_fetcher(label_studio_url=label_studio.url, label_studio_token=LEGACY_TOKEN)

    assert await opened.fetch(UPLOAD) == label_studio.files["18d1a805-a.jpg"]
    assert label_studio.requests == [(UPLOAD, f"Token {LEGACY_TOKEN}")]


async def test_a_path_prefix_of_label_studio_is_kept(label_studio, open_fetcher):
    opened = open_fetcher(
        label_studio_url=label_studio.url / "labelstudio", label_studio_token=label_studio.pat
    )

    assert await opened.fetch(UPLOAD)
    assert await opened.fetch(f"/labelstudio{UPLOAD}")
    assert [path for path, _ in label_studio.requests] == [
        "/labelstudio/api/token/refresh/",
        f"/labelstudio{UPLOAD}",
        f"/labelstudio{UPLOAD}",
    ]


async def test_a_personal_access_token_is_exchanged_once(label_studio, open_fetcher):
    opened = open_fetcher(label_studio_url=label_studio.url, label_studio_token=label_studio.pat)

    await asyncio.gather(*(opened.fetch(UPLOAD) for _ in range(5)))

    paths = [path for path, _ in label_studio.requests]
    assert paths.count("/api/token/refresh/") == 1
    assert paths.count(UPLOAD) == 5
    assert all("Token" not in (header or "") for _, header in label_studio.requests)


async def test_an_access_token_is_renewed_before_it_expires(label_studio, open_fetcher):
    label_studio.lifetime_s = 10  # less than what a fetch may take
    opened = open_fetcher(label_studio_url=label_studio.url, label_studio_token=label_studio.pat)

    await opened.fetch(UPLOAD)
    await opened.fetch(UPLOAD)

    assert len(label_studio.access_tokens) == 2


async def test_an_access_token_is_renewed_once_when_it_is_refused(label_studio, open_fetcher):
    opened = open_fetcher(label_studio_url=label_studio.url, label_studio_token=label_studio.pat)
    await opened.fetch(UPLOAD)
    label_studio.access_tokens.clear()  # for example, Label Studio has another secret now

    assert await opened.fetch(UPLOAD)
    assert [path for path, _ in label_studio.requests].count("/api/token/refresh/") == 2

    label_studio.authorized = lambda header: False
    with pytest.raises(LabelStudioAuthError):
        await opened.fetch(UPLOAD)
    assert [path for path, _ in label_studio.requests].count("/api/token/refresh/") == 3


async def test_an_access_token_that_says_nothing_of_its_life_is_kept(label_studio, open_fetcher):
    async def refresh(request):
        label_studio.requests.append((request.path, None))
        label_studio.access_tokens.add("opaque")
        return web.json_response({"access": "opaque"})

    app = web.Application()
    app.router.add_post("/api/token/refresh/", refresh)
    app.router.add_get("/data/upload/{project}/{file}", label_studio.upload)
    async with TestServer(app) as server:
        opened = open_fetcher(
            label_studio_url=URL(str(server.make_url(""))), label_studio_token=label_studio.pat
        )
        assert await opened.fetch(UPLOAD)
        assert await opened.fetch(UPLOAD)

    assert [path for path, _ in label_studio.requests].count("/api/token/refresh/") == 1


async def test_an_access_token_is_sent_as_it_is(label_studio, open_fetcher):
    access = jwt(token_type="access", exp=2, iat=1)
    label_studio.access_tokens.add(access)
    opened = open_fetcher(label_studio_url=label_studio.url, label_studio_token=access)

    assert await opened.fetch(UPLOAD)


async def test_the_token_of_setup_is_tried_last(label_studio, open_fetcher):
    opened = open_fetcher(
        label_studio_url=label_studio.url, label_studio_token=jwt(token_type="refresh", jti="old")
    )
    opened.label_studio.remember_setup("http://localhost:8080", LEGACY_TOKEN)

    assert await opened.fetch(UPLOAD)
    assert label_studio.requests == [
        ("/api/token/refresh/", None),
        (UPLOAD, f"Token {LEGACY_TOKEN}"),
    ]


async def test_setup_says_where_label_studio_is_if_nothing_else_does(label_studio, open_fetcher):
    opened = open_fetcher()
    opened.label_studio.remember_setup("nonsense://", "")
    opened.label_studio.remember_setup(str(label_studio.url), LEGACY_TOKEN)

    assert await opened.fetch(UPLOAD)


async def test_the_configured_token_stays_with_the_first_setup(label_studio, open_fetcher):
    opened = open_fetcher(label_studio_token=label_studio.pat)
    opened.label_studio.remember_setup(str(label_studio.url), "")
    assert await opened.fetch(UPLOAD)

    opened.label_studio.remember_setup("http://127.0.0.1:1", "another-token")

    assert [one.name for one in opened.label_studio.credentials()] == ["the token of /setup"]


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "no token. Set LABEL_STUDIO_API_KEY"),
        ("f" * 40, "LABEL_STUDIO_API_KEY is refused"),
        ("not.a.token", "LABEL_STUDIO_API_KEY is refused"),
        ("eyJ.bnVsbA.x", "LABEL_STUDIO_API_KEY is refused"),  # the claims are null
        (jwt(token_type="refresh", jti="revoked"), "create a new personal access token"),
    ],
)
async def test_a_token_that_is_refused_is_told(label_studio, open_fetcher, token, message):
    label_studio.legacy_tokens = False
    opened = open_fetcher(label_studio_url=label_studio.url, label_studio_token=token)

    with pytest.raises(LabelStudioAuthError) as caught:
        await opened.fetch(UPLOAD)

    assert message in str(caught.value)
    assert not token or token not in str(caught.value)
    assert caught.value.field == FIELD
    assert [path for path, _ in label_studio.requests].count(UPLOAD) <= 1  # no use in trying again


async def test_what_label_studio_gives_to_everybody_needs_no_token(label_studio, open_fetcher):
    label_studio.authorized = lambda header: header is None
    opened = open_fetcher(label_studio_url=label_studio.url)

    assert await opened.fetch(UPLOAD)


async def test_the_token_goes_to_label_studio_alone(
    label_studio, open_fetcher, elsewhere, unused_tcp_port
):
    elsewhere.answers["/a.jpg"] = answering(image())
    opened = open_fetcher(
        label_studio_url=label_studio.url, label_studio_token=LEGACY_TOKEN, allowed=LOOPBACK
    )
    port = elsewhere.port

    for url in (
        f"http://127.0.0.1:{port}/a.jpg",  # another port
        f"http://localhost:{port}/a.jpg",  # another host
        f"http://127.0.0.1:{port}/a.jpg?next=http://127.0.0.1:{label_studio.url.port}/",
        f"http://127.0.0.1:{port}/a.jpg#@127.0.0.1:{label_studio.url.port}/",
    ):
        assert await opened.fetch(url) == b"image"
    assert {header for _, header in elsewhere.asked} == {None}
    assert label_studio.requests == []


@pytest.mark.parametrize(
    "lookalike",
    [
        "http://127.0.0.1.example.org:{port}/",
        "https://127.0.0.1:{port}/",  # another scheme
        "http://127.0.0.1:1{port}/",
        "http://127.0.0.1@example.org:{port}/",
        "http://example.org:{port}/127.0.0.1:{port}/",
        "http://127.0.0.2:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
    ],
)
async def test_what_looks_like_label_studio_is_not(open_fetcher, lookalike):
    opened = open_fetcher(
        label_studio_url=URL("http://127.0.0.1:4321"), label_studio_token=LEGACY_TOKEN
    )

    url = locate(lookalike.format(port=4321), TASK, FIELD, None).url

    assert not opened.label_studio.serves(url)


@pytest.mark.parametrize("address", ["http://user:pw@127.0.0.1:{port}", "HTTP://127.0.0.1:{port}"])
async def test_label_studio_by_another_spelling_gets_the_token(label_studio, open_fetcher, address):
    opened = open_fetcher(label_studio_url=label_studio.url, label_studio_token=LEGACY_TOKEN)

    assert await opened.fetch(address.format(port=label_studio.url.port) + UPLOAD)
    assert label_studio.requests == [(UPLOAD, f"Token {LEGACY_TOKEN}")]


# Redirects


async def test_the_token_does_not_follow_a_redirect(label_studio, open_fetcher, elsewhere):
    elsewhere.answers["/bucket/a.jpg"] = answering(image(b"from the bucket"))

    async def presigned(request):
        del request
        location = f"{elsewhere.make_url('/bucket/a.jpg')}?X-Amz-Signature=a%2Fb%2B"
        return web.Response(status=303, headers={"Location": location})

    label_studio.answer = presigned
    opened = open_fetcher(
        label_studio_url=label_studio.url, label_studio_token=LEGACY_TOKEN, allowed=LOOPBACK
    )

    assert await opened.fetch(UPLOAD) == b"from the bucket"
    assert elsewhere.asked == [("/bucket/a.jpg?X-Amz-Signature=a%2Fb%2B", None)]


async def test_redirects_end(open_fetcher, elsewhere):
    elsewhere.answers["/round"] = answering(status(302, Location="/round"))
    opened = open_fetcher(allowed=LOOPBACK)

    with pytest.raises(ImageUnavailableError, match="more than 5 redirects"):
        await opened.fetch(elsewhere.make_url("/round"))

    assert len(elsewhere.asked) == 6


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://169.254.169.254/latest/meta-data/", "private or reserved"),
        ("http://127.0.0.2/", "private or reserved"),
        ("file:///etc/passwd", "redirected to file:///etc/passwd"),
        ("http://", "is not an address"),
    ],
)
async def test_each_redirect_is_checked(open_fetcher, elsewhere, location, message):
    elsewhere.answers["/away"] = answering(status(302, Location=location))
    allowed = AllowedHosts(names=frozenset({"127.0.0.1"}))

    with pytest.raises(ImageRefusedError, match=message):
        await open_fetcher(allowed=allowed).fetch(elsewhere.make_url("/away"))


# Addresses


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "[::1]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "localhost",
    ],
)
async def test_a_private_address_is_refused(open_fetcher, host):
    with pytest.raises(ImageRefusedError, match="ALLOWED_IMAGE_HOSTS") as caught:
        await open_fetcher().fetch(f"http://{host}:9/a.jpg")

    assert caught.value.field == FIELD


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "127.1",
        "0177.0.0.1",
        "0",
        "0x7f.1",
        "0X7F000001",
        "127.0.0.0x1",
        "127.0.0.1.",
        "127.0.0.1..",
        "1.2.3.4.5",
    ],
)
def test_an_address_in_an_odd_spelling_is_refused(host):
    policy = AddressPolicy(AllowedHosts(names=frozenset({host})))

    with pytest.raises(ImageRefusedError, match="is not an address: expected a host name"):
        policy.check_url(URL(f"http://{host}:9/a.jpg"))


@pytest.mark.parametrize("host", ["[::1%25lo]", "[fe80::1%25eth0]", "[::ffff:127.0.0.1%25x]"])
def test_a_zone_does_not_open_a_private_address(host):
    with pytest.raises(ImageRefusedError, match="ALLOWED_IMAGE_HOSTS"):
        AddressPolicy(NOBODY).check_url(URL(f"http://{host}:9/a.jpg"))


async def test_a_name_that_resolves_to_a_private_address_is_refused(open_fetcher, elsewhere):
    elsewhere.answers["/a.jpg"] = answering(image())
    url = URL(f"http://localhost:{elsewhere.port}/a.jpg")

    with pytest.raises(ImageRefusedError, match="localhost is at a private"):
        await open_fetcher().fetch(url)
    assert elsewhere.asked == []

    named = AllowedHosts(names=frozenset({"localhost"}))
    assert await open_fetcher(allowed=named).fetch(url) == b"image"


async def test_label_studio_may_have_a_private_address_but_only_at_its_port(
    label_studio, open_fetcher, elsewhere
):
    elsewhere.answers["/a.jpg"] = answering(image())
    opened = open_fetcher(label_studio_url=label_studio.url, label_studio_token=LEGACY_TOKEN)

    assert await opened.fetch(UPLOAD)
    with pytest.raises(ImageRefusedError):
        await opened.fetch(elsewhere.make_url("/a.jpg"))


def test_public_addresses_are_let_through():
    policy = AddressPolicy(AllowedHosts())

    for host in ("93.184.215.14", "[2606:2800:21f:cb07:6820:80da:af6b:8b2c]", "example.org"):
        policy.check_url(URL(f"http://{host}/"))


@pytest.mark.parametrize("host", ["1.example.org", "0x7f.example", "xn--p1ai", "a1", "localhost."])
def test_names_are_left_to_the_resolver(host):
    AddressPolicy(NOBODY).check_url(URL(f"http://{host}/"))


async def test_the_resolver_checks_what_is_connected_to():
    resolver = CheckedResolver(AddressPolicy(LOOPBACK))

    results = await resolver.resolve("localhost", 80, socket.AF_UNSPEC)

    assert results
    await resolver.close()


# Limits and failures


async def test_a_large_image_is_refused_while_it_is_read(open_fetcher, elsewhere):
    async def chunked(request):
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # the gateway hangs up
            while True:
                await response.write(b"x" * 65536)
        return response

    elsewhere.answers["/told"] = answering(image(b"x" * 1001))
    elsewhere.answers["/untold"] = chunked
    elsewhere.answers["/fits"] = answering(image(b"x" * 1000))
    opened = open_fetcher(allowed=LOOPBACK, max_bytes=1000)

    assert len(await opened.fetch(elsewhere.make_url("/fits"))) == 1000
    for path in ("/told", "/untold"):
        with pytest.raises(ImageRefusedError, match="MAX_IMAGE_BYTES"):
            await opened.fetch(elsewhere.make_url(path))


@pytest.mark.parametrize("code", [429, 500, 502, 503])
async def test_a_failure_that_may_pass_is_tried_again(open_fetcher, elsewhere, code):
    elsewhere.answers["/a"] = answering(status(code), status(code), image())
    opened = open_fetcher(allowed=LOOPBACK)

    assert await opened.fetch(elsewhere.make_url("/a")) == b"image"


async def test_a_broken_connection_is_tried_again(open_fetcher, elsewhere):
    async def hang_up(request):
        elsewhere.answers["/a"] = answering(image())
        request.transport.abort()
        return web.Response()

    elsewhere.answers["/a"] = hang_up
    opened = open_fetcher(allowed=LOOPBACK)

    assert await opened.fetch(elsewhere.make_url("/a")) == b"image"


async def test_an_unknown_upload_is_tried_three_times(label_studio, open_fetcher):
    opened = open_fetcher(label_studio_url=label_studio.url, label_studio_token=LEGACY_TOKEN)

    with pytest.raises(ImageUnavailableError, match="answers 500"):
        await opened.fetch("/data/upload/1/unknown.jpg")

    assert len(label_studio.requests) == 3


@pytest.mark.parametrize("code", [401, 403, 404, 410, 304])
async def test_a_failure_that_stays_is_not_tried_again(open_fetcher, elsewhere, code):
    elsewhere.answers["/a"] = answering(status(code))
    url = elsewhere.make_url("/a").with_query(signature="secret").with_user("me")

    with pytest.raises(ImageUnavailableError, match=f"answers {code}") as caught:
        await open_fetcher(allowed=LOOPBACK).fetch(url)

    assert len(elsewhere.asked) == 1
    assert "secret" not in str(caught.value)
    assert "me@" not in str(caught.value)


async def test_no_answer_is_told(open_fetcher, unused_tcp_port):
    opened = open_fetcher(
        label_studio_url=URL(f"http://127.0.0.1:{unused_tcp_port}"),
        label_studio_token=LEGACY_TOKEN,
    )

    with pytest.raises(ImageUnavailableError, match="no connection"):
        await opened.fetch(UPLOAD)


async def test_no_answer_to_the_exchange_is_told(open_fetcher, unused_tcp_port, label_studio):
    opened = open_fetcher(
        label_studio_url=URL(f"http://127.0.0.1:{unused_tcp_port}"),
        label_studio_token=label_studio.pat,
    )

    with pytest.raises(ImageUnavailableError, match="check LABEL_STUDIO_URL"):
        await opened.fetch(UPLOAD)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (web.json_response, LabelStudioAuthError),
        (lambda: web.json_response({"access": "a\nb"}), LabelStudioAuthError),
        (lambda: web.Response(text="welcome"), LabelStudioAuthError),
        (status(404), LabelStudioAuthError),
        (status(302, Location="/login"), LabelStudioAuthError),
        (status(503), ImageUnavailableError),
    ],
)
async def test_an_exchange_that_gives_no_token_is_told(open_fetcher, answer, error):
    async def refresh(request):
        del request
        return answer()

    app = web.Application()
    app.router.add_post("/api/token/refresh/", refresh)
    async with TestServer(app) as server:
        opened = open_fetcher(
            label_studio_url=URL(str(server.make_url(""))),
            label_studio_token=jwt(token_type="refresh"),
        )
        with pytest.raises(error, match="Label Studio"):
            await opened.fetch(UPLOAD)


async def test_an_image_that_takes_too_long_is_given_up(open_fetcher, elsewhere):
    released = asyncio.Event()

    async def slow(request):
        del request
        await released.wait()
        return web.Response()

    elsewhere.answers["/slow"] = slow
    with pytest.raises(ImageUnavailableError, match="IMAGE_TIMEOUT_S"):
        await open_fetcher(allowed=LOOPBACK, timeout_s=0.05).fetch(elsewhere.make_url("/slow"))
    released.set()


def test_the_recorded_storage_tasks_have_addresses():
    for item in recorded("predict_batch_storage_uris")["body"]["tasks"]:
        source = locate(item["data"]["image"], TASK, FIELD, URL("http://ls:8080"))

        assert source.url or source.data_uri
