# PID 1 of a node: makes the namespaces it was started in a machine of its own, then only reaps.
# Called as: bash init.sh STATE-FOLDER. All mounts are private to its mount namespace and end with it.
set -eu
state=$1

mount --no-mtab -t tmpfs -o mode=755 tmpfs /run
mount -t proc proc /proc
# The kubelet insists on these settings, which belong to the whole machine: here it finds that they are as it wants them.
pretend() {
    local file=$state/settings/$1
    mkdir -p "${file%/*}"
    echo "$2" >"$file"
    mount --bind "$file" "/proc/sys/$1"
}
pretend vm/overcommit_memory 1
pretend kernel/panic 10
pretend kernel/panic_on_oops 1
pretend kernel/keys/root_maxkeys 1000000
pretend kernel/keys/root_maxbytes 25000000

# Folders whose names are compiled into the components; like /run, each is the node's own.
for folder in log lib/cni lib/kubelet; do
    mkdir -p "$state/var/$folder"
    mount --bind "$state/var/$folder" "/var/$folder"
done

# An empty bridge is an interface that needs no module and holds the node's address.
ip link set lo up
ip link add node0 type bridge
ip address add 10.88.0.1/32 dev node0
ip link set node0 up
echo 1 >/proc/sys/net/ipv4/ip_forward

touch "$state/init.ready"
while :; do
    sleep infinity &
    wait || true
done
