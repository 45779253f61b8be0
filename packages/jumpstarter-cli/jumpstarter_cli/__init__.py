"""The programs `jmp` and `j`; each module is one command, loaded when it is used."""
