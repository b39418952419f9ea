#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# A RAM disk served from user space holds somebody's files: demo.sh TREE SIZE
# Runs as root, in the virtual machine or on a machine whose kernel has the ublk driver; ramdisk is on the PATH.
set -eu
tree=$1
size=$2
work=$(mktemp -d)
disk=
mounted=

fail() {
    echo "FAILED: $*"
    exit 1
}

leave() {
    status=$?
    trap - EXIT
    if [ -n "$mounted" ]; then umount "$work/mnt" || true; fi
    if [ -n "$disk" ]; then kill -TERM "$disk" || true; wait "$disk" || true; fi
    rm -rf "$work"
    exit "$status"
}
trap leave EXIT
trap 'exit 1' INT TERM

# Hundredths of a second since boot.
now() {
    read -r up idle </proc/uptime
    echo "${up%.*}${up#*.}"
}

# What a step took, in seconds.
since() {
    taken=$(($(now) - $1))
    printf '%d.%02d s' $((taken / 100)) $((taken % 100))
}

# A link is followed, and so compared by what it leads to.
sums() {
    (cd "$1" && find -L . -type f -print0 | sort -z | xargs -0 sha256sum)
}

begin=$(now)
echo "kernel $(uname -r)"
[ -e /dev/ublk-control ] || fail "there is no /dev/ublk-control: this kernel has no ublk driver, or it is not loaded"

start=$(now)
sums "$tree" >"$work/before"
files=$(wc -l <"$work/before")
bytes=$(find -L "$tree" -type f -print0 | xargs -0 cat | wc -c)
links=$(find "$tree" -type l | wc -l)
[ "$files" -gt 1000 ] || fail "$tree holds $files files only"
echo "summed up the kernel's header files: $files files ($links of them links), $bytes bytes: $(since "$start")"

start=$(now)
mkfifo "$work/said"
ramdisk --size "$size" --queues 2 --depth 64 >"$work/said" &
disk=$!
exec 3<"$work/said"
read -r device <&3 || fail "ramdisk printed no device"
[ -b "$device" ] || fail "$device is not a block device"
echo "ramdisk serves $device, $size, 2 queues of 64 requests: $(since "$start")"

start=$(now)
mkfs.ext4 -q "$device"
echo "made ext4 on $device: $(since "$start")"

mkdir "$work/mnt"
mount -t ext4 "$device" "$work/mnt"
mounted=yes
start=$(now)
cp -a "$tree" "$work/mnt/tree"
umount "$work/mnt"
mounted=
copied=$(since "$start")
echo "mounted it, copied the files in, unmounted it: $copied"

start=$(now)
e2fsck -fn "$device" || fail "e2fsck found something wrong on $device"
echo "e2fsck finds nothing wrong: $(since "$start")"

start=$(now)
mount -t ext4 -o ro "$device" "$work/mnt"
mounted=yes
sums "$work/mnt/tree" >"$work/after"
umount "$work/mnt"
mounted=
cmp "$work/before" "$work/after" || fail "what was read back is not what was copied in"
echo "mounted it again, every checksum agrees, unmounted it: $(since "$start")"

start=$(now)
kill -INT "$disk"
wait "$disk" || fail "ramdisk ended with status $?"
disk=
cat <&3
[ ! -e "$device" ] || fail "$device is still there"
echo "stopped ramdisk with SIGINT, $device is gone: $(since "$start")"

echo "$files files, $bytes bytes, every checksum as before; copied in $copied, $(since "$begin") in all"
