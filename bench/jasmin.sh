#!/bin/sh
# Jasmin 0.11.1, the peer that `bench/smpp --jasmin FOLDER` compares with: from PyPI, with Debian's redis and rabbitmq.
#
#   bench/jasmin.sh setup [FOLDER]    install it there (Debian's packages as root or by sudo); once
#   bench/jasmin.sh start [FOLDER]    start all of it, empty, with ten users and one upstream
#   bench/jasmin.sh stop [FOLDER]     stop what start has started
#
# FOLDER is ~/.cache/smpp-portal/jasmin where none is given. Everything listens on 127.0.0.1, from port 24369 to 24990,
# and nothing of the machine's own redis or rabbitmq is touched. Its upstream is the load generator's sink, which
# accepts at once what it is sent, so that nothing but Jasmin and its broker is measured. JASMIN_OPTIONS are further ones
# of jasmind.py. `start` leaves in FOLDER what the bench needs: port, accounts (system_id and password a line) and
# processes (the ids of Jasmin, rabbitmq, redis).
set -eu

action=${1:-}
folder=$(realpath -m "${2:-$HOME/.cache/smpp-portal/jasmin}")
here=$(cd "$(dirname "$0")" && pwd)

smpp=24775 sink=24776 amqp=24672 dist=24673 epmd=24369 redis=24379 jcli=24990
users=10

setup() {
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    if ! [ -x /usr/bin/redis-server ] || ! [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then
        $sudo apt-get -qq update
        # RUNLEVEL: the packages would start their services otherwise.
        $sudo env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
            redis-server rabbitmq-server >/dev/null
    fi
    mkdir -p "$folder/sdist"
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check jasmin==0.11.1
    # The wheel lacks the description of AMQP that Jasmin reads at its start.
    "$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
        -d "$folder/sdist" jasmin==0.11.1
    tar -xzf "$folder"/sdist/jasmin-0.11.1.tar.gz -C "$folder/sdist"
    cp -r "$folder"/sdist/jasmin-0.11.1/misc/config/resource "$folder/"
    echo "Jasmin 0.11.1 is set up in $folder"
}

# Keeps the id of what has just been started, for stop.
remember() { echo "$1" >>"$folder/running"; }

start() {
    [ -x "$folder/venv/bin/jasmind.py" ] || { echo "nothing in $folder: bench/jasmin.sh setup $folder" >&2; exit 1; }
    [ ! -e "$folder/running" ] || stop
    rm -rf "$folder/run"
    mkdir -p "$folder/run/log" "$folder/run/store" "$folder/run/home"
    : >"$folder/running"
    trap stop EXIT
    cc -O2 -o "$folder/generator" "$here/generator.c"
    # What is started here stays here, by which stop knows it.
    cd "$folder/run"

    "$folder/generator" --sink $sink >"$folder/run/sink" 2>"$folder/run/log/sink" &
    remember $!

    redis-server --bind 127.0.0.1 --port $redis --save '' --dir "$folder/run" >"$folder/run/log/redis" 2>&1 &
    redis_id=$!
    remember $redis_id

    ERL_EPMD_ADDRESS=127.0.0.1 epmd -port $epmd >"$folder/run/log/epmd" 2>&1 &
    remember $!
    # Not /usr/sbin/rabbitmq-server, which would become another user.
    env HOME="$folder/run/home" ERL_EPMD_PORT=$epmd ERL_EPMD_ADDRESS=127.0.0.1 \
        RABBITMQ_NODENAME=bench@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=$amqp \
        RABBITMQ_DIST_PORT=$dist RABBITMQ_MNESIA_BASE="$folder/run/mnesia" RABBITMQ_LOG_BASE="$folder/run/log" \
        RABBITMQ_PID_FILE="$folder/run/rabbitmq.pid" RABBITMQ_ENABLED_PLUGINS_FILE="$folder/run/plugins" \
        RABBITMQ_CONFIG_FILE="$folder/run/rabbitmq" RABBITMQ_CONF_ENV_FILE=/dev/null \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
        /usr/lib/rabbitmq/bin/rabbitmq-server >"$folder/run/log/rabbitmq" 2>&1 &
    wait_for_port $amqp
    rabbitmq_id=$(cat "$folder/run/rabbitmq.pid")
    remember "$rabbitmq_id"

    configuration >"$folder/run/jasmin.cfg"
    # Left behind by one that was killed; Jasmin takes it for another that runs.
    rm -f /tmp/jasmind.lock
    env ROOT_PATH="$folder/run" CONFIG_PATH="$folder/run" RESOURCE_PATH="$folder/resource" \
        STORE_PATH="$folder/run/store" LOG_PATH="$folder/run/log" \
        "$folder/venv/bin/python" "$folder/venv/bin/jasmind.py" -c "$folder/run/jasmin.cfg" --enable-dlr-lookup \
        ${JASMIN_OPTIONS:-} \
        >"$folder/run/log/jasmin" 2>&1 &
    jasmin_id=$!
    remember $jasmin_id
    wait_for_port $jcli
    configure
    wait_for_port $smpp

    echo $smpp >"$folder/port"
    echo "$jasmin_id $rabbitmq_id $redis_id" >"$folder/processes"
    trap - EXIT
    echo "Jasmin takes binds on port $smpp"
}

wait_for_port() {
    "$folder/venv/bin/python" - "$1" <<'PYTHON'
import socket, sys, time
ends = time.monotonic() + 60
while True:
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1).close()
        break
    except OSError:
        if time.monotonic() > ends:
            sys.exit(f"nobody listens on port {sys.argv[1]}")
        time.sleep(0.1)
PYTHON
}

configuration() {
    cat <<CFG
[smpp-server]
bind = 127.0.0.1
port = $smpp
[smpp-server-pb]
bind = 127.0.0.1
port = 24400
[http-api]
bind = 127.0.0.1
port = 24401
[router]
bind = 127.0.0.1
port = 24988
[client-management]
bind = 127.0.0.1
port = 24989
[jcli]
bind = 127.0.0.1
port = $jcli
authentication = False
[amqp-broker]
port = $amqp
[redis-client]
port = $redis
CFG
}

# One group, the users, the sink as the only upstream, and a route to it for everything.
configure() {
    "$folder/venv/bin/python" - $jcli $sink $users "$folder/accounts" <<'PYTHON'
import re, socket, sys

port, sink, users, accounts = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
lines = ["group -a", "gid bench", "ok"]
for number in range(users):
    lines += ["user -a", f"username bench{number}", f"password pass{number}", "gid bench", f"uid bench{number}"]
    lines += ["smpps_cred authorization bind yes", "ok"]
lines += ["smppccm -a", "cid sink", "host 127.0.0.1", f"port {sink}", "username sink", "password sink"]
lines += ["submit_throughput 0", "ok", "smppccm -1 sink"]
lines += ["mtrouter -a", "type DefaultRoute", "connector smppc(sink)", "rate 0.0", "ok", "persist"]
with socket.create_connection(("127.0.0.1", port), 20) as console:
    said = b""

    def answer(end: bytes = rb"(jcli : |> )\Z") -> str:
        global said
        while not re.search(end, said):
            more = console.recv(4096)
            if not more:
                sys.exit(f"the console has gone: {said!r}")
            said += more
        words, said = said.decode("latin-1"), b""
        return words

    # It shows no prompt before the first command.
    answer(rb"Session ref: .*\n")
    for line in lines:
        console.sendall(line.encode() + b"\r\n")
        words = answer()
        if re.search(r"(?i)error|unknown|incorrect|invalid|fail", words):
            sys.exit(f"{line}: {words}")
with open(accounts, "w") as file:
    file.writelines(f"bench{number} pass{number}\n" for number in range(users))
PYTHON
}

stop() {
    [ -e "$folder/running" ] || { echo "nothing of $folder runs"; return; }
    # The last that was started goes first.
    for id in $(tac "$folder/running"); do
        # The number may have become another's since: after a crash of the machine, for one.
        [ "$(readlink "/proc/$id/cwd")" = "$folder/run" ] || continue
        kill -CONT "$id" 2>/dev/null || true
        kill "$id" 2>/dev/null || true
        for _ in $(seq 50); do
            kill -0 "$id" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$id" 2>/dev/null || true
    done
    rm -f "$folder/running"
    [ ! -s "$folder/run/sink" ] || echo "forwarded to the upstream: $(tail -n 1 "$folder/run/sink")"
}

case $action in
setup) setup ;;
start) start ;;
stop) stop ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
