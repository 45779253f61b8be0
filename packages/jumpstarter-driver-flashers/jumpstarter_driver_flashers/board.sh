#!/bin/sh
# Runs on the board, in the small Linux that was booted for flashing: writes pieces of an image to a disk and reads them
# back. Needs busybox (sh, dd, wget or curl) and nothing else.
#
#   board.sh check                                  see that all tools are there
#   board.sh size DISK                              print the size of the disk: jmp-size BYTES
#   board.sh find ADDRESS                           print the disk at a hardware address: jmp-disk /dev/NAME
#   board.sh label LABEL [DISK]                     print the partition with a label: jmp-disk /dev/NAME
#   board.sh write DISK URL PIECE...                write pieces; prints jmp-done PIECE when one is stored
#   board.sh verify DISK URL PIECE SUM ZEROS        read a piece back and compare SHA-256 sums ('-' for none)
#   board.sh stream DISK URL UNPACK                 write a whole file, unpacked by the program UNPACK ('cat' for none)
#
# While it works it prints jmp-at BYTES, for each piece from 0 on. The status is 0 only if everything is on the disk; otherwise the last lines say
# why. No status of a pipeline's first part is lost: each part leaves its own in a file.

tmp=${0%/*}

fail() {
    echo "jmp-fail $*"
    exit 1
}

fetch() { # URL: to standard output
    if command -v wget >/dev/null; then
        # shellcheck disable=SC2086
        wget -q $wget_options -O - "$1"
    else
        curl -fsS --connect-timeout 30 "$1"
    fi
}

why() { # FILE: what a program said, in one line
    if [ -s "$1" ]; then
        tail -n 3 "$1" | tr '\n\r' '  '
    else
        echo "it said nothing"
    fi
}

check() {
    for tool in dd tail tr; do
        command -v $tool >/dev/null || fail "the flasher's Linux has no program '$tool'"
    done
    command -v wget >/dev/null || command -v curl >/dev/null || fail "the flasher's Linux has neither wget nor curl"
    dd if=/dev/null of="$tmp/probe" bs=512 count=1 iflag=fullblock conv=notrunc,fsync 2>"$tmp/err" ||
        fail "the dd of the flasher's Linux lacks iflag=fullblock or conv=fsync: $(why "$tmp/err")"
}

size() { # DISK
    [ -e "$1" ] || fail "the board has no $1; it has: $(cd /sys/class/block 2>/dev/null && echo *)"
    if [ -b "$1" ]; then
        blocks=$(cat "/sys/class/block/${1##*/}/size" 2>/dev/null) ||
            blocks=$(cat "/sys/class/block/$(basename "$(readlink -f "$1")")/size") || fail "$1 tells no size"
        echo "jmp-size $((blocks * 512))"
    elif [ -f "$1" ]; then
        echo "jmp-size $(wc -c <"$1")"
    else
        fail "$1 is no disk"
    fi
}

find_address() { # ADDRESS
    for link in /sys/class/block/*; do
        case $(readlink "$link") in
        *"$1"*)
            # The disk comes before its partitions and its boot areas, whose names begin like its own.
            echo "jmp-disk /dev/${link##*/}"
            return
            ;;
        esac
    done
    fail "no disk at the address $1; the board has: $(cd /sys/class/block && echo *)"
}

find_label() { # LABEL [DISK]
    for event in /sys/class/block/*/uevent; do
        grep -qx "PARTNAME=$1" "$event" || continue
        name=${event%/uevent}
        name=${name##*/}
        if [ -n "$2" ] && [ ! -e "/sys/class/block/${2##*/}/$name" ]; then
            continue
        fi
        echo "jmp-disk /dev/$name"
        return
    done
    fail "no partition has the label '$1'${2:+ on $2}"
}

store() { # DISK: have everything stored, and hear of errors
    dd if=/dev/null of="$1" bs=512 count=0 conv=notrunc,fsync 2>"$tmp/store" ||
        fail "$1 could not store what was written: $(why "$tmp/store")"
}

put() { # DISK, the list on descriptor 3, the data on standard input
    while read -r kind size seek count at <&3; do
        if [ "$kind" = d ]; then
            dd of="$1" bs="$size" seek="$seek" count="$count" iflag=fullblock conv=notrunc 2>"$tmp/dd"
        else
            dd if=/dev/zero of="$1" bs="$size" seek="$seek" count="$count" conv=notrunc 2>"$tmp/dd"
        fi || return 1
        { read -r taken && read -r given; } <"$tmp/dd" || return 1
        if [ "$taken" != "$count+0 records in" ]; then
            echo "the data ended after ${taken%% *} of $count blocks of $size bytes" >"$tmp/dd"
            return 1
        fi
        [ "$given" = "$count+0 records out" ] || return 1
        [ "$at" = - ] || echo "jmp-at $at"
    done
}

piece() { # DISK URL PIECE
    fetch "$2/$3.ops" >"$tmp/ops" 2>"$tmp/err" || fail "can't get the list of piece $3: $(why "$tmp/err")"
    rm -f "$tmp/fetched"
    {
        fetch "$2/$3" 2>"$tmp/err"
        echo $? >"$tmp/fetched"
    } | put "$1" 3<"$tmp/ops"
    written=$?
    fetched=$(cat "$tmp/fetched" 2>/dev/null)
    if [ $written -ne 0 ]; then
        # A transfer that broke is why the data ended; one that a full disk broke is not.
        case $(why "$tmp/dd") in
        "the data ended"*) [ "$fetched" = 0 ] || fail "the transfer of piece $3 broke: $(why "$tmp/err")" ;;
        esac
        fail "can't write piece $3 to $1: $(why "$tmp/dd")"
    fi
    [ "$fetched" = 0 ] || fail "the transfer of piece $3 broke: $(why "$tmp/err")"
}

stored() { # wait until the piece before is stored, while this one is in memory
    [ -n "$storing" ] || return 0
    wait "$storing" || { cat "$tmp/storing" && exit 1; }
    echo "jmp-done $before"
}

write() { # DISK URL PIECE...
    disk=$1
    url=$2
    shift 2
    storing=
    for name; do
        # Each in a shell of its own, so that its failure is known when the one before is stored.
        (piece "$disk" "$url" "$name")
        status=$?
        stored
        [ $status -eq 0 ] || exit 1
        before=$name
        (store "$disk") >"$tmp/storing" &
        storing=$!
    done
    stored
}

get() { # DISK KIND, the list on descriptor 3; the data goes to standard output
    while read -r kind size skip count at <&3; do
        [ "$kind" = "$2" ] || continue
        dd if="$1" bs="$size" skip="$skip" count="$count" 2>"$tmp/dd" || cp "$tmp/dd" "$tmp/failed"
        [ "$at" = - ] || echo "jmp-at $at" >&4
    done
}

sum() { # DISK KIND, progress goes to descriptor 4
    get "$1" "$2" 3<"$tmp/ops" | sha256sum | cut -d ' ' -f 1
}

verify() { # DISK URL PIECE SUM ZEROS
    command -v sha256sum >/dev/null || fail "the flasher's Linux has no program 'sha256sum'"
    fetch "$2/$3.ops" >"$tmp/ops" 2>"$tmp/err" || fail "can't get the list of piece $3: $(why "$tmp/err")"
    # Else the answer would come from memory.
    { echo 3 >/proc/sys/vm/drop_caches; } 2>/dev/null
    rm -f "$tmp/failed"
    exec 4>&1
    for kind in d z; do
        wanted=$4
        [ $kind = d ] || wanted=$5
        [ "$wanted" != - ] || continue
        found=$(sum "$1" $kind)
        [ ! -e "$tmp/failed" ] || fail "can't read piece $3 back from $1: $(why "$tmp/failed")"
        [ "$found" = "$wanted" ] ||
            fail "$1 holds something else than was written: piece $3 has the SHA-256 $found instead of $wanted"
    done
}

stream() { # DISK URL UNPACK
    command -v "$3" >/dev/null || fail "the flasher's Linux has no program '$3' to unpack the image"
    rm -f "$tmp/fetched" "$tmp/unpacked" "$tmp/written" "$tmp/pid"
    {
        {
            fetch "$2" 2>"$tmp/err"
            echo $? >"$tmp/fetched"
        } | {
            "$3" 2>"$tmp/unpack"
            echo $? >"$tmp/unpacked"
        } | {
            exec 5<&0
            dd of="$1" bs=65536 iflag=fullblock conv=notrunc,fsync <&5 2>"$tmp/dd" &
            echo $! >"$tmp/pid"
            wait $!
            echo $? >"$tmp/written"
        }
    } &
    while [ ! -e "$tmp/written" ]; do
        sleep 1
        while read -r key value; do
            [ "$key" != pos: ] || echo "jmp-at $value"
        done 2>/dev/null <"/proc/$(cat "$tmp/pid" 2>/dev/null)/fdinfo/1"
    done
    wait
    [ "$(cat "$tmp/written")" = 0 ] || fail "can't write to $1: $(why "$tmp/dd")"
    [ "$(cat "$tmp/fetched")" = 0 ] || fail "can't get $2: $(why "$tmp/err")"
    [ "$(cat "$tmp/unpacked")" = 0 ] || fail "$3 can't unpack the image: $(why "$tmp/unpack")"
}

wget_options=
if wget --help 2>&1 | grep -q -e "-T SEC"; then
    wget_options="-T 60"
fi

command=$1
shift
case $command in
check) check ;;
size) size "$@" ;;
find) find_address "$@" ;;
label) find_label "$@" ;;
write) write "$@" ;;
verify) verify "$@" ;;
stream) stream "$@" ;;
*) fail "unknown command '$command'" ;;
esac
