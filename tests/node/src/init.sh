# PID 1 of a node: makes the namespaces it was started in a machine of its own, then only reaps.
# Called as: bash init.sh STATE-FOLDER. All mounts are private to its mount namespace and end with it.
set -eu
state=$1

mount -t proc proc /proc
# The kubelet writes kernel settings that belong to the whole machine: here it cannot.
for settings in vm kernel; do
    mount --bind /proc/sys/$settings /proc/sys/$settings
    mount -o remount,bind,ro /proc/sys/$settings
done

# Folders whose names are compiled into the components.
mount -t tmpfs -o mode=755 tmpfs /run
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
