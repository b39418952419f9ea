#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Every way in which data can travel, judged by programs that know nothing of it. As root, with loop and stripe on the PATH:
#   paths FOLDER head                         the head of the table
#   paths FOLDER cells SERVER MODE TRANSPORT DIRECT IOS QUEUES:QD...
#                                             fio writes, reads, trims and verifies: a row of the table for each QUEUES:QD
#   paths FOLDER tree MODE FILESYSTEM TREE    a file system on loop holds the files of TREE
#   paths FOLDER discard MODE                 blkdiscard gives the space of the file behind loop back
#   paths FOLDER short MODE                   a file that is shortened within a block reads as zeroes behind its end
#   paths FOLDER durable MODE                 each FLUSH and each FUA waits for an fdatasync of its own
# FOLDER is where the files behind the disks are made. TRANSPORT is per-tag or batch, and of loop also per-tag+shared or batch+shared:
# then fio's memory is the server's too. What a driver has not, or the crate refuses by name, is a row that says so, and no failure.
set -eu
folder=$1
what=$2
shift 2
work=$(mktemp -d "$folder/paths-XXXXXX")
server=
mounted=
tracing=

fail() {
    echo "FAILED: $*"
    exit 1
}

leave() {
    status=$?
    trap - EXIT
    if [ -n "$tracing" ]; then echo 0 >"$tracing/tracing_on"; fi
    if [ -n "$mounted" ]; then umount "$work/mnt" || true; fi
    if [ -n "$server" ]; then kill -TERM "$server" || true; wait "$server" || true; fi
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
    printf '%d.%02d' $((taken / 100)) $((taken % 100))
}

row() {
    printf '%-10s %-7s %-14s %-15s %-6s %6s %3s %6s %8s  %s\n' "$@"
}

kernel=$(uname -r)
kernel=${kernel%%[-+]*}

# Starts a server, and says what its disk is ($device) and how the data goes ($how); fails, with $refused, where there is none.
start() {
    mkfifo "$work/said"
    "$@" >"$work/said" 2>"$work/complaint" &
    server=$!
    exec 3<"$work/said"
    rm "$work/said"
    if read -r device <&3; then
        read -r how <&3
        return 0
    fi
    wait "$server" || true
    server=
    refused=$(tail -n 1 "$work/complaint")
    case $refused in
        *"this driver has no"* | *UBLK_F_*" excludes "UBLK_F_*) return 1 ;;
        *) fail "$* said: $(cat "$work/complaint")" ;;
    esac
}

# Stops the server, and says what it said last ($last).
stop() {
    kill -TERM "$server"
    wait "$server" || fail "the server ended with status $?"
    server=
    last=$(cat <&3)
    exec 3<&-
    [ ! -e "$device" ] || fail "$device is still there"
}

# A link is followed, and so compared by what it leads to.
sums() {
    (cd "$1" && find -L . -type f -print0 | sort -z | xargs -0 sha256sum)
}

# fio over a server, with a row for what comes of it; not true where it finds an error.
cell() {
    name=$1 mode=$2 transport=$3 direct=$4 ios=$5 queues=$6 depth=$7
    # A quarter ends at a sector that starts no page, and behind the last sector is what is none.
    bytes=$((64 * 1048576 + 16 * 512))
    jobs=$queues
    set -- "$name" --mode "$mode" --direct "$direct" --queues "$queues"
    case $transport in batch*) set -- "$@" --batch ;; esac
    # Each job has a buffer of 1 MiB for each request, and one job alone can have the shared memory.
    case $transport in *+shared) set -- "$@" --shared-memory 68M && jobs=1 ;; esac
    case $name in
        loop)
            truncate -s $((bytes + 300)) "$work/file"
            set -- "$@" "$work/file"
            # In the last quarter each write comes behind a trim of its place.
            mixed=$((bytes / 4 * 3))
            trims="--name=trims --mem=malloc --rw=trimwrite --offset=$mixed --size=$((bytes - mixed)) --number_ios=$((ios / 4))"
            ;;
        stripe)
            set -- "$@" --chunk 16K
            for number in 1 2 3 4; do
                truncate -s $((16 * 1048576 + 300)) "$work/file$number"
                set -- "$@" "$work/file$number"
            done
            bytes=$((64 * 1048576))
            # It takes no discards.
            mixed=$bytes trims=
            ;;
    esac
    start "$@" || return 2
    [ "$(cat "/sys/block/${device#/dev/}/size")" = $((bytes / 512)) ] || fail "$device has the wrong size"
    memory=malloc
    case $transport in
        *+shared)
            memory=${how##*clients share }
            memory=mmapshared:${memory%%;*}
            ;;
    esac
    part=$((mixed / jobs))
    begun=$(now)
    status=0
    # Two writes under way to one place could end in either order.
    # shellcheck disable=SC2086
    fio --filename="$device" --direct=1 --ioengine=libaio --iodepth="$depth" --randrepeat=1 --serialize_overlap=1 \
        --bssplit=512/20:1536/10:4k/25:12800/10:64k/25:256k/6:1m/4 \
        --verify=crc32c --do_verify=1 --verify_fatal=1 --group_reporting \
        --name=mixed --mem="$memory" --rw=randrw --numjobs="$jobs" --size="$part" --offset_increment="$part" \
        --number_ios=$((ios / jobs)) $trims >"$work/fio" 2>&1 || status=$?
    taken=$(since "$begun")
    done=$(sed -n 's/.*issued rwts: total=\([0-9,]*\) .*/\1/p' "$work/fio" | tr , '\n' | awk '{ sum += $1 } END { print sum + 0 }')
    if [ $status != 0 ] || ! grep -q 'err= 0' "$work/fio" || grep -q 'err=[^ ]' "$work/fio"; then
        row "$kernel" "$name" "$mode" "$transport" "$direct" "$queues" "$depth" "$done" "$taken" "status $status"
        cat "$work/fio"
        stop
        return 1
    fi
    stop
    case $transport in
        *+shared)
            shared=${last%% requests in shared memory*}
            shared=${shared##*loop: }
            # What fio reads and writes beside the trims: half of it, at least, is not split by the block layer.
            [ "$shared" -ge $((ios / 2)) ] || fail "$shared requests were of shared memory"
            ;;
    esac
    row "$kernel" "$name" "$mode" "$transport" "$direct" "$queues" "$depth" "$done" "$taken" 0
}

case $what in
    head)
        row kernel server mode transport direct queues QD I/Os seconds errors
        ;;

    cells)
        name=$1 mode=$2 transport=$3 direct=$4 ios=$5
        shift 5
        wrong=0
        for shape; do
            came=0
            cell "$name" "$mode" "$transport" "$direct" "$ios" "${shape%:*}" "${shape#*:}" || came=$?
            case $came in
                0) ;;
                2)
                    row "$kernel" "$name" "$mode" "$transport" "$direct" - - - - "refused: ${refused#*: }"
                    exit 0
                    ;;
                *) wrong=1 ;;
            esac
        done
        exit $wrong
        ;;

    tree)
        mode=$1 filesystem=$2 tree=$3
        begun=$(now)
        sums "$tree" >"$work/before"
        files=$(wc -l <"$work/before")
        [ "$files" -gt 1000 ] || fail "$tree holds $files files only"
        truncate -s 320M "$work/file"
        if ! start loop --mode "$mode" --queues 4 "$work/file"; then
            echo "$kernel $filesystem in $mode: refused: ${refused##*: }"
            exit 0
        fi
        case $filesystem in
            ext4) mkfs.ext4 -q "$device" ;;
            xfs) mkfs.xfs -q "$device" ;;
        esac
        mkdir "$work/mnt"
        mount -t "$filesystem" "$device" "$work/mnt"
        mounted=yes
        cp -a "$tree" "$work/mnt/tree"
        umount "$work/mnt"
        mounted=
        case $filesystem in
            ext4) e2fsck -fn "$device" >"$work/checked" 2>&1 || fail "e2fsck: $(cat "$work/checked")" ;;
            xfs) xfs_repair -n "$device" >"$work/checked" 2>&1 || fail "xfs_repair: $(cat "$work/checked")" ;;
        esac
        mount -t "$filesystem" -o ro "$device" "$work/mnt"
        mounted=yes
        sums "$work/mnt/tree" >"$work/after"
        umount "$work/mnt"
        mounted=
        cmp "$work/before" "$work/after" || fail "what was read back is not what was copied in"
        stop
        echo "$kernel $filesystem in $mode: $files files, every checksum agrees, nothing wrong is found: $(since "$begun") s"
        ;;

    discard)
        mode=$1
        truncate -s 32M "$work/file"
        if ! start loop --mode "$mode" "$work/file"; then
            echo "$kernel blkdiscard in $mode: refused: ${refused##*: }"
            exit 0
        fi
        tr '\0' x </dev/zero | dd of="$device" bs=1M count=32 iflag=fullblock conv=fsync 2>/dev/null
        full=$(du -k "$work/file" | cut -f1)
        # The 8 MiB in the middle first, so that what lies around them has to stay.
        # The shell has one of its own, which can less.
        blkdiscard=$(which blkdiscard)
        "$blkdiscard" -o 8388608 -l 8388608 "$device"
        for mib in 0 7 8 15 16 31; do
            case $mib in
                8 | 15) byte='\0' ;;
                *) byte=x ;;
            esac
            wrong=$(dd if="$device" bs=1M skip="$mib" count=1 2>/dev/null | tr -d "$byte" | wc -c)
            [ "$wrong" = 0 ] || fail "MiB $mib has $wrong bytes that are wrong"
        done
        partly=$(du -k "$work/file" | cut -f1)
        "$blkdiscard" "$device"
        "$blkdiscard" -z -l 1048576 "$device"
        wrong=$(dd if="$device" bs=1M 2>/dev/null | tr -d '\0' | wc -c)
        [ "$wrong" = 0 ] || fail "$wrong bytes are left"
        empty=$(du -k "$work/file" | cut -f1)
        [ $((full - partly)) -ge 8000 ] && [ $((full - empty)) -ge 30000 ] || fail "$full KiB, $partly KiB, $empty KiB"
        stop
        echo "$kernel blkdiscard in $mode: the file had $full KiB, $partly KiB, and has $empty KiB"
        ;;

    short)
        mode=$1
        tr '\0' x </dev/zero | dd of="$work/file" bs=1M count=1 iflag=fullblock 2>/dev/null
        if ! start loop --mode "$mode" --direct on "$work/file"; then
            echo "$kernel short file in $mode: refused: ${refused##*: }"
            exit 0
        fi
        truncate -s 700000 "$work/file"
        dd if="$device" bs=1M 2>/dev/null >"$work/read"
        [ "$(head -c 700000 "$work/read" | tr -d x | wc -c)" = 0 ] || fail "what the file has is not read"
        [ "$(tr -d '\0' <"$work/read" | wc -c)" = 700000 ] || fail "behind its end are no zeroes"
        [ "$(wc -c <"$work/read")" = 1048576 ] || fail "the disk has another size"
        stop
        echo "$kernel short file in $mode: 700000 bytes of the file, and zeroes to the end of the disk"
        ;;

    durable)
        # fdatasync is an operation of the ring, which strace does not see: it sees io_uring_enter. The kernel's tracepoints do.
        mode=$1
        truncate -s 8M "$work/file"
        if ! start loop --mode "$mode" "$work/file"; then
            echo "$kernel durable in $mode: refused: ${refused##*: }"
            exit 0
        fi
        tracing=/sys/kernel/tracing
        number=$(cat "/sys/block/${device#/dev/}/dev")
        echo 0 >$tracing/tracing_on
        echo >$tracing/trace
        echo 8192 >$tracing/buffer_size_kb
        for event in io_uring/io_uring_submit_req io_uring/io_uring_complete block/block_rq_issue block/block_rq_complete; do
            echo 1 >$tracing/events/$event/enable
        done
        echo 1 >$tracing/tracing_on
        # A direct write with O_DSYNC is one with FUA, and a FLUSH behind it; fdatasync is a FLUSH.
        fio --name=durable --filename="$device" --rw=write --bs=4k --number_ios=50 --direct=1 --sync=dsync >"$work/fio" 2>&1 ||
            fail "$(cat "$work/fio")"
        fio --name=flushed --filename="$device" --rw=write --bs=4k --number_ios=50 --direct=1 --fdatasync=1 >"$work/fio" 2>&1 ||
            fail "$(cat "$work/fio")"
        echo 0 >$tracing/tracing_on
        cat $tracing/trace >"$work/trace"
        tracing=
        awk -v device="${number%:*},${number#*:}" '
            function field(name) { match($0, name "[ ]*[x0-9a-f]+"); return substr($0, RSTART, RLENGTH) }
            / block_rq_issue: / && index($0, " " device " ") && $0 ~ device " (FF|W[A-Z]*F[A-Z]*) " { waiting++; synced = 0; asked++ }
            / io_uring_submit_req: / && /FSYNC/ { sync[field("user_data")] = 1; syncs++ }
            / io_uring_complete: / { data = field("user_data"); if (data in sync) { delete sync[data]; synced++ } }
            / block_rq_complete: / && $0 ~ device " (FF|W[A-Z]*F[A-Z]*) " {
                if (synced < 1) { print "answered before its fdatasync: " $0; wrong = 1 }
                waiting--
            }
            END {
                if (asked < 120 || syncs < asked || waiting) wrong = 1
                print asked + 0 " FLUSH and FUA, " syncs + 0 " FSYNC of the ring, each back before the answer" (wrong ? ": NOT SO" : "")
                exit wrong
            }' "$work/trace" >"$work/counted" || { head -60 "$work/trace"; fail "$(cat "$work/counted")"; }
        stop
        echo "$kernel durable in $mode: $(cat "$work/counted")"
        ;;

    *)
        fail "$what is nothing that this does"
        ;;
esac
