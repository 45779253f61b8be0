"""Every daemon of the test bench does what tests rely on."""

import subprocess
import urllib.error
import urllib.request
import uuid

import pytest

from jumpstarter_testbench.daemons import own_loopback_address, tftp_answers
from jumpstarter_testbench.requirements import program

pytestmark = pytest.mark.daemon


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=30, **options)


def test_sshd_runs_a_command_for_the_key_that_it_knows(sshd):
    finished = run(*sshd.command("echo hello from $USER"))

    assert (finished.returncode, finished.stdout) == (0, f"hello from {sshd.user}\n"), finished.stderr


def test_sshd_refuses_another_key(sshd, tmp_path):
    run(program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key")
    command = [str(tmp_path / "key") if part == str(sshd.key) else part for part in sshd.command("true")]

    finished = run(*command)

    assert finished.returncode == 255
    assert "Permission denied" in finished.stderr


def test_sshd_transfers_files_over_sftp(sshd, tmp_path):
    (tmp_path / "source").write_bytes(bytes(range(256)) * 1000)
    connection = [part for part in sshd.command()[1:] if part not in ("-p", str(sshd.port))]
    target = connection.pop()

    finished = run(
        *(program("sftp"), *connection, "-P", sshd.port, "-b", "-", target),
        input=f"put {tmp_path / 'source'} {tmp_path / 'copy'}\n",
    )

    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "source").read_bytes()


@pytest.mark.parametrize("transport", ["address", "tcp_address"])
@pytest.mark.parametrize("kind", ["dbus_session", "dbus_system"])
def test_a_bus_lists_its_names(kind, transport, request):
    bus = request.getfixturevalue(kind)
    command = [program("dbus-send"), f"--bus={getattr(bus, transport)}", "--print-reply", "--dest=org.freedesktop.DBus"]

    finished = run(*command, "/", "org.freedesktop.DBus.ListNames")

    assert 'string "org.freedesktop.DBus"' in finished.stdout, finished.stderr


def test_mosquitto_brings_a_message_from_publisher_to_subscriber(mosquitto):
    topic = f"test/{uuid.uuid4()}"
    server = ["-h", mosquitto.host, "-p", str(mosquitto.port), "-t", topic]
    published = run(program("mosquitto_pub"), *server, "-r", "-m", "hello")
    assert published.returncode == 0, published.stderr

    received = run(program("mosquitto_sub"), *server, "-C", "1", "-W", "10")

    assert received.stdout == "hello\n", received.stderr


def snmp(agent, tool, *arguments, version=("-v2c", "-c", "private")):
    return run(program(tool), *version, "-t", "2", "-r", "1", "-Oqv", f"{agent.host}:{agent.port}", *arguments)


def test_snmpd_switches_an_outlet(snmpd):
    outlet = snmpd.outlet_oid(3)
    assert snmp(snmpd, "snmpset", outlet, "i", "1").stdout == "1\n"
    assert snmp(snmpd, "snmpget", outlet).stdout == "1\n"
    assert snmp(snmpd, "snmpget", snmpd.outlet_oid(4)).stdout == "2\n"

    assert snmp(snmpd, "snmpset", outlet, "i", "2").stdout == "2\n"
    assert snmp(snmpd, "snmpget", outlet).stdout == "2\n"


def test_snmpd_walks_all_outlets(snmpd):
    assert len(snmp(snmpd, "snmpwalk", snmpd.base_oid).stdout.split()) == snmpd.outlets


def test_snmpd_refuses_a_value_that_is_no_outlet_state(snmpd):
    finished = snmp(snmpd, "snmpset", snmpd.outlet_oid(1), "i", "7")

    assert finished.returncode != 0
    assert "wrongValue" in finished.stderr


def test_snmpd_speaks_version_3_with_authentication_and_privacy(snmpd):
    def version_3(auth_password: str) -> list[str]:
        names = ["-v3", "-l", "authPriv", "-u", snmpd.user]
        return [*names, "-a", "SHA", "-A", auth_password, "-x", "AES", "-X", snmpd.priv_password]

    assert snmp(snmpd, "snmpset", snmpd.outlet_oid(5), "i", "1", version=version_3(snmpd.auth_password)).stdout == "1\n"
    refused = snmp(snmpd, "snmpget", snmpd.outlet_oid(5), version=version_3("wrong-password"))
    assert refused.returncode != 0
    assert "Authentication failure" in refused.stderr


@pytest.mark.need("curl")
def test_tftpd_serves_a_file_to_curl(tftpd, tmp_path):
    content = bytes(range(256)) * 4096
    (tftpd.directory / "image").write_bytes(content)

    finished = run(program("curl"), "-sS", "-o", tmp_path / "copy", f"tftp://{tftpd.host}:{tftpd.port}/image")

    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "copy").read_bytes() == content


@pytest.mark.need("tftp")
def test_tftpd_takes_an_upload_from_tftp_hpa(tftpd, tmp_path):
    (tmp_path / "source").write_bytes(b"uploaded" * 100)

    finished = run(program("tftp"), "-m", "binary", tftpd.host, tftpd.port, "-c", "put", tmp_path / "source", "upload")

    assert finished.returncode == 0, finished.stderr
    assert (tftpd.directory / "upload").read_bytes() == b"uploaded" * 100


@pytest.mark.need("atftp")
def test_tftpd_negotiates_a_block_size_with_atftp(tftpd, tmp_path):
    content = b"x" * 100_000
    (tftpd.directory / "blocks").write_bytes(content)
    command = [program("atftp"), "--option", "blksize 1428", "-g", "-r", "blocks", "-l", tmp_path / "copy"]

    finished = run(*command, tftpd.host, tftpd.port)

    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "copy").read_bytes() == content


def test_nobody_answers_tftp_where_no_server_is():
    with pytest.raises(TimeoutError):
        tftp_answers(own_loopback_address(), 6969)


def test_ustreamer_serves_a_picture_without_a_camera(ustreamer):
    with urllib.request.urlopen(f"{ustreamer.url}/snapshot", timeout=10) as answer:
        picture = answer.read()

    assert picture.startswith(b"\xff\xd8")


def test_redis_remembers_a_value(redis):
    client = [program("redis-cli"), "-h", redis.host, "-p", str(redis.port)]
    assert run(*client, "SET", "color", "red").stdout == "OK\n"

    assert run(*client, "GET", "color").stdout == "red\n"


def test_s3_keeps_an_object(s3):
    import boto3

    s3.create_bucket("kept-objects")
    client = boto3.client(
        "s3",
        endpoint_url=s3.url,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        region_name=s3.region,
    )
    client.put_object(Bucket="kept-objects", Key="a/b", Body=b"content")

    assert client.get_object(Bucket="kept-objects", Key="a/b")["Body"].read() == b"content"


def test_webdav_stores_and_deletes_a_file(webdav):
    url = f"{webdav.url}/note.txt"
    urllib.request.urlopen(urllib.request.Request(url, data=b"kept", method="PUT"), timeout=10).close()
    assert (webdav.directory / "note.txt").read_bytes() == b"kept"

    urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).close()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(url, timeout=10)
