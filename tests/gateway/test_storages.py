"""Images in cloud storages and in the local-files storage of Label Studio."""

import os

import boto3
import pytest
from moto.server import ThreadedMotoServer
from yarl import URL

from gateway_support import LEGACY_TOKEN, click, jpeg, key_point
from sam_gateway.config import ConfigError, parse_config
from sam_gateway.errors import ImageRefusedError
from sam_gateway.local_files import read_below

SIZE = (1024, 683)
LOOPBACK = parse_config([], {"ALLOWED_IMAGE_HOSTS": "127.0.0.0/8"}).allowed_image_hosts
URI = "s3://photos/dir/a b ä.jpg"
PHOTO = jpeg("truck.jpg", SIZE, box=(36, 72, 1728, 1200))


@pytest.fixture(scope="module")
def bucket():
    """A bucket on an S3 server, with a photo in it."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="photos")
    client.put_object(Bucket="photos", Key="dir/a b ä.jpg", Body=PHOTO)
    yield client
    client.close()
    server.stop()


def presigned(bucket):
    return bucket.generate_presigned_url(
        "get_object", Params={"Bucket": "photos", "Key": "dir/a b ä.jpg"}, ExpiresIn=60
    )


def a_click(image, **changes):
    body = click(image, key_point(30, 50, size=SIZE, **changes))
    body["tasks"][0]["project"] = 1
    return body


async def mask_of(response):
    assert response.status == 200, await response.text()
    (region,) = (await response.json())["results"][0]["result"]
    return region["value"]


@pytest.fixture
async def open_storages(open_gateway, worker_target, label_studio):
    async def start(**settings):
        return await open_gateway(
            worker=worker_target,
            label_studio_url=label_studio.url,
            label_studio_token=LEGACY_TOKEN,
            **settings,
        )

    return start


async def test_a_click_on_an_image_in_a_bucket(open_storages, label_studio, bucket):
    client = await open_storages(allowed_image_hosts=LOOPBACK)
    label_studio.stored[URI] = presigned(bucket)

    from_bucket = await mask_of(await client.post("/predict", json=a_click(URI)))
    upload = "/data/upload/1/18d1a805-a.jpg"  # the same photo

    assert from_bucket == await mask_of(await client.post("/predict", json=a_click(upload)))
    (resolved, header) = label_studio.requests[0]
    assert resolved.startswith("/tasks/1/resolve/?fileuri=czM6Ly9waG90b3Mv")
    assert header == f"Token {LEGACY_TOKEN}"


async def test_an_image_in_a_bucket_is_known_by_its_uri(open_storages, label_studio, bucket):
    client = await open_storages(allowed_image_hosts=LOOPBACK)
    label_studio.stored[URI] = presigned(bucket)

    for task, project in ((1, 1), (2, 1), (3, 2)):
        body = a_click(URI)
        body["tasks"][0] |= {"id": task, "project": project}
        assert (await client.post("/predict", json=body)).status == 200

    # Another project may mean another storage.
    assert [path.split("/")[2] for path, _ in label_studio.requests] == ["1", "3"]


async def test_a_bucket_at_a_private_address_is_to_be_allowed(open_storages, label_studio, bucket):
    client = await open_storages()
    label_studio.stored[URI] = presigned(bucket)

    response = await client.post("/predict", json=a_click(URI))

    assert response.status == 422
    error = (await response.json())["error"]
    assert error["field"] == "tasks[0].data.image"
    assert "ALLOWED_IMAGE_HOSTS" in error["message"]
    assert "Signature" not in error["message"]


@pytest.mark.parametrize("scheme", ["s3", "gs", "azure-blob"])
async def test_label_studio_may_give_the_image_itself(open_storages, label_studio, scheme):
    client = await open_storages()
    label_studio.stored[f"{scheme}://box/a.jpg"] = PHOTO

    response = await client.post("/predict", json=a_click(f"{scheme}://box/a.jpg"))

    assert await mask_of(response)


async def test_what_no_storage_covers_is_told(open_storages):
    client = await open_storages()

    response = await client.post("/predict", json=a_click("gs://box/unknown.jpg"))

    assert response.status == 502
    message = (await response.json())["error"]["message"]
    assert "answers 404: it does not exist, or no storage of the project covers it" in message


async def test_an_object_that_is_gone_is_told(open_storages, label_studio, bucket):
    client = await open_storages(allowed_image_hosts=LOOPBACK)
    label_studio.stored["s3://photos/gone.jpg"] = bucket.generate_presigned_url(
        "get_object", Params={"Bucket": "photos", "Key": "gone.jpg"}
    )

    response = await client.post("/predict", json=a_click("s3://photos/gone.jpg"))

    assert response.status == 502
    assert "/photos/gone.jpg answers 404" in (await response.json())["error"]["message"]


LOCAL = "/data/local-files/?d=dir%2Fa%20b.jpg"


async def test_local_files_come_from_label_studio(open_storages, label_studio):
    client = await open_storages()
    label_studio.stored["dir/a b.jpg"] = PHOTO

    assert await mask_of(await client.post("/predict", json=a_click(LOCAL)))
    assert label_studio.requests == [(LOCAL, f"Token {LEGACY_TOKEN}")]


async def test_local_files_are_read_where_they_are_mounted(open_storages, label_studio, tmp_path):
    client = await open_storages(local_files_root=tmp_path)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "a b.jpg").write_bytes(PHOTO)

    for value in (LOCAL, f"{label_studio.url.origin()}{LOCAL}"):
        assert await mask_of(await client.post("/predict", json=a_click(value)))
    assert label_studio.requests == []


async def test_a_local_file_that_is_not_mounted_comes_from_label_studio(
    open_storages, label_studio, tmp_path
):
    client = await open_storages(local_files_root=tmp_path)
    label_studio.stored["dir/a b.jpg"] = PHOTO

    assert await mask_of(await client.post("/predict", json=a_click(LOCAL)))


async def test_another_host_names_no_local_file(open_storages, label_studio, tmp_path):
    client = await open_storages(local_files_root=tmp_path)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "a b.jpg").write_bytes(PHOTO)

    response = await client.post("/predict", json=a_click(f"http://127.0.0.1:9{LOCAL}"))

    assert response.status == 422
    assert label_studio.requests == []


async def test_a_large_local_file_is_refused(open_storages, tmp_path):
    client = await open_storages(local_files_root=tmp_path, max_image_bytes=10)
    (tmp_path / "a.jpg").write_bytes(b"x" * 11)

    response = await client.post("/predict", json=a_click("/data/local-files/?d=a.jpg"))

    assert response.status == 422
    assert "MAX_IMAGE_BYTES" in (await response.json())["error"]["message"]


@pytest.fixture
def mounted(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.jpg").write_bytes(b"inside")
    (root / "link.jpg").symlink_to(root / "a.jpg")
    (root / "leaving.jpg").symlink_to(tmp_path / "secret")
    (root / "circle").symlink_to(root / "circle")
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "root-beside").write_bytes(b"outside")
    return root


@pytest.mark.parametrize("name", ["a.jpg", "/a.jpg", "folder/../a.jpg", "link.jpg"])
def test_what_is_below_the_folder_is_read(mounted, name):
    assert read_below(mounted, name, 100) == b"inside"
    assert read_below(mounted, name, 3) == b"insi"


@pytest.mark.parametrize(
    "name",
    ["../secret", "/../secret", "folder/../../secret", "leaving.jpg", "../root-beside", ".."],
)
def test_nothing_outside_of_the_folder_is_read(mounted, name):
    with pytest.raises(ImageRefusedError, match="LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"):
        read_below(mounted, name, 100)


@pytest.mark.parametrize(
    "name", ["b.jpg", "folder", "pipe", "a.jpg/b", "circle", "a\0b", ".", "/etc/passwd", "x" * 5000]
)
def test_what_is_no_file_is_not_read(mounted, name):
    assert read_below(mounted, name, 100) is None


@pytest.mark.parametrize("path", ["relative", "/nowhere/at/all", __file__])
def test_the_folder_is_there(path):
    with pytest.raises(ConfigError, match="LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT: expected"):
        parse_config([], {"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": path})


def test_the_folder_is_configured(tmp_path):
    name = "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"

    assert parse_config([], {name: str(tmp_path)}).local_files_root == tmp_path
    assert parse_config([], {}).local_files_root is None


# Where Label Studio is


async def test_label_studio_is_found_on_the_host_of_a_container(
    open_gateway, worker_target, label_studio, unused_tcp_port, monkeypatch, caplog
):
    """As a container sees it: what /setup says is not there, but the host machine is."""
    caplog.set_level("INFO")
    monkeypatch.setattr("sam_gateway.label_studio._DOCKER_HOST", "localhost")
    port = label_studio.url.port
    client = await open_gateway(worker=worker_target, label_studio_token=label_studio.pat)
    # 127.0.0.2 is a loopback address at which nobody listens.
    setup = {"hostname": f"http://127.0.0.2:{port}", "access_token": LEGACY_TOKEN}
    label_studio.stored["a.jpg"] = PHOTO

    for _ in range(2):
        assert (await client.post("/setup", json=setup)).status == 200
        response = await client.post("/predict", json=a_click("/data/local-files/?d=a.jpg"))
        assert await mask_of(response)

    assert f"label_studio_tried url=http://127.0.0.2:{port} result=" in caplog.text
    assert f"label_studio_tried url=http://localhost:{port} result=found" in caplog.text
    paths = [path for path, _ in label_studio.requests]
    assert paths.count("/api/version/") == 1
    assert paths.count("/data/local-files/?d=a.jpg") == 1


async def test_a_server_that_is_not_label_studio_gets_no_token(
    open_gateway, worker_target, label_studio, monkeypatch, caplog
):
    caplog.set_level("INFO")
    monkeypatch.setattr("sam_gateway.label_studio._DOCKER_HOST", "localhost")
    client = await open_gateway(worker=worker_target)
    other = await open_gateway(worker=worker_target)
    url = URL(str(other.make_url("")))

    await client.post("/setup", json={"hostname": f"http://127.0.0.2:{url.port}"})
    response = await client.post("/predict", json=a_click("/data/local-files/?d=a.jpg"))

    assert response.status == 502
    assert "localhost" not in (await response.json())["error"]["message"]
    assert f'url=http://localhost:{url.port} result="not Label Studio"' in caplog.text
