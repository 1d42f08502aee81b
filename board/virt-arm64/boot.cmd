# QEMU's virt machine: memory from 1 GiB on. The kernel is 52 MB when unpacked.
setenv kernel_addr_r 0x40400000
setenv kernel_comp_addr_r 0x48000000
setenv kernel_comp_size 0x02000000
setenv ramdisk_addr_r 0x46000000
setenv board_fdt ${fdtcontroladdr}
setenv board_args "console=ttyAMA0 panic=10 quiet loglevel=4"
