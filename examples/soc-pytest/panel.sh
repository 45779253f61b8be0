#!/bin/sh
# The application of the board: draws its panel on the screen.
#
#     panel start|ok|alarm

block() { # ROW COLUMN HEIGHT WIDTH COLOUR: a filled rectangle
    row=$1
    while [ "$row" -lt $(($1 + $3)) ]; do
        printf '\033[%d;%dH\033[%dm%*s' "$row" "$2" "$5" "$4" ''
        row=$((row + 1))
    done
    printf '\033[0m'
}

text() { # ROW COLUMN TEXT
    printf '\033[%d;%dH\033[1m%s\033[0m' "$1" "$2" "$3"
}

draw() {
    printf '\033[0m\033[2J'
    case $1 in
    start)
        column=1
        for colour in 41 43 42 46 44 45; do
            block 1 "$column" 17 13 "$colour"
            column=$((column + 13))
        done
        text 20 34 'starting ...'
        ;;
    ok)
        block 2 4 20 20 42
        block 2 28 9 50 44
        block 13 28 9 50 46
        text 24 4 'all good'
        ;;
    alarm)
        block 2 4 20 20 42
        block 2 28 20 50 41
        text 24 4 'over temperature'
        ;;
    *)
        echo 'usage: panel start|ok|alarm' >&2
        exit 2
        ;;
    esac
    # The prompt of the login goes below the panel, at start; later the cursor is out of the way.
    printf '\033[22;1H'
}

draw "$1" > /dev/tty1
