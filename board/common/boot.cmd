# The part of the boot script that all boards share: which slot to boot.
#
# slot.txt is there since the first update, and slot.bak is a copy for when the power went while slot.txt was written:
#   active  the slot that is known to be good
#   try     the slot on trial, or empty
#   left    how often the trial may still be booted; counted down here, before the boot
#   whole   y; the last line, so a file without it is torn
setenv slot_file ${kernel_addr_r}
setenv whole n
for name in slot.txt slot.bak; do
	if test "${whole}" != y; then
		setenv active a
		setenv try -
		setenv left 0
		setenv whole n
		if load ${devtype} ${devnum}:${distro_bootpart} ${slot_file} ${name}; then
			env import -t ${slot_file} ${filesize} active left try whole
		fi
	fi
done
if test "${whole}" != y; then
	setenv active a
	setenv try -
	setenv left 0
fi
if test "${active}" != b; then setenv active a; fi
setenv slot ${active}
setenv trial
if test "${try}" = a -o "${try}" = b; then
	if test ${left} -gt 0; then
		setexpr left ${left} - 1
		if env export -t ${slot_file} active left try whole; then
			# Over itself, in one sector: a power cut leaves the old count or the new one.
			if fatwrite ${devtype} ${devnum}:${distro_bootpart} ${slot_file} slot.txt ${filesize}; then
				setenv slot ${try}
				setenv trial lightnvr.trial=1
			fi
		fi
	fi
fi
echo "LightNVR: slot ${slot} (active ${active}, trial ${try}, left ${left})"
setenv bootargs "${board_args} lightnvr.slot=${slot} ${trial}"
# A slot whose kernel or initramfs cannot be read falls back to the active one by the restart.
if load ${devtype} ${devnum}:${distro_bootpart} ${kernel_addr_r} ${slot}/kernel.gz; then
	if load ${devtype} ${devnum}:${distro_bootpart} ${ramdisk_addr_r} ${slot}/initrd.zst; then
		booti ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${board_fdt}
	fi
fi
echo "LightNVR: slot ${slot} does not boot, restart in 5 s"
sleep 5
reset
