// Makes a camera of a v4l2loopback device: feed DEVICE FOURCC WIDTH HEIGHT FRAMES
// FRAMES holds frames, each after its length in four bytes, big-endian; a length of zero ends them. They are written
// five a second, round and round.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const unsigned INTERVAL_US = 200000;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

// All of it, however the file hands it out.
static void fill(int from, void *to, size_t len)
{
	for (size_t got = 0; got < len;) {
		ssize_t more = read(from, (char *)to + got, len - got);
		if (more <= 0)
			die("reading frames");
		got += more;
	}
}

int main(int argc, char **argv)
{
	if (argc != 6 || strlen(argv[2]) != 4)
		die("usage: feed DEVICE FOURCC WIDTH HEIGHT FRAMES");
	int device = open(argv[1], O_RDWR);
	int frames = open(argv[5], O_RDONLY);
	if (device < 0 || frames < 0)
		die("opening");
	struct v4l2_format format = {.type = V4L2_BUF_TYPE_VIDEO_OUTPUT};
	const char *code = argv[2];
	format.fmt.pix.pixelformat = v4l2_fourcc(code[0], code[1], code[2], code[3]);
	format.fmt.pix.width = atoi(argv[3]);
	format.fmt.pix.height = atoi(argv[4]);
	format.fmt.pix.field = V4L2_FIELD_NONE;
	if (ioctl(device, VIDIOC_S_FMT, &format))
		die("setting the format");
	size_t most = format.fmt.pix.sizeimage;
	char *frame = malloc(most);
	for (;;) {
		uint32_t len;
		fill(frames, &len, sizeof len);
		len = ntohl(len);
		if (!len) {
			lseek(frames, 0, SEEK_SET);
			continue;
		}
		if (!frame || len > most)
			die("a frame is too long");
		fill(frames, frame, len);
		if (write(device, frame, len) != (ssize_t)len)
			die("writing a frame");
		usleep(INTERVAL_US);
	}
}
