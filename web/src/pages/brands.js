// Where the common brands have their RTSP streams. `main` is what to record, `sub` the small picture.
// Without `sub` the brand has none at a fixed place. {c} is the channel, counted from 1: 1 for a camera of its own, the number of the input on a recorder.

export const BRANDS = [
  { id: 'hikvision', name: 'Hikvision (also HiWatch, Annke)', main: '/Streaming/Channels/{c}01', sub: '/Streaming/Channels/{c}02' },
  { id: 'dahua', name: 'Dahua (also Amcrest, Lorex, IMOU)', main: '/cam/realmonitor?channel={c}&subtype=0', sub: '/cam/realmonitor?channel={c}&subtype=1' },
  { id: 'reolink', name: 'Reolink', main: '/Preview_{c2}_main', sub: '/Preview_{c2}_sub', hint: 'Switch RTSP on first: Settings, Network, Advanced, Port settings.' },
  { id: 'tapo', name: 'TP-Link Tapo', main: '/stream1', sub: '/stream2', hint: 'User and password are those of the camera account in the Tapo app: Settings, Advanced settings, Camera account.' },
  { id: 'vigi', name: 'TP-Link VIGI', main: '/stream1', sub: '/stream2' },
  { id: 'axis', name: 'Axis', main: '/axis-media/media.amp?videocodec=h264', sub: '/axis-media/media.amp?videocodec=h264&resolution=640x360' },
  { id: 'ubiquiti', name: 'Ubiquiti UniFi Protect', port: 7447, main: '/', hint: 'Switch RTSP on for the camera in UniFi Protect and write the name that it shows (as in rtsp://…:7447/NAME) behind the address below.' },
  { id: 'foscam', name: 'Foscam', port: 88, main: '/videoMain', sub: '/videoSub' },
  { id: 'vivotek', name: 'Vivotek', main: '/live1s1.sdp', sub: '/live1s2.sdp' },
  { id: 'bosch', name: 'Bosch', main: '/rtsp_tunnel?inst=1', sub: '/rtsp_tunnel?inst=2' },
  { id: 'hanwha', name: 'Hanwha (Samsung Wisenet)', main: '/profile2/media.smp', sub: '/profile3/media.smp' },
  { id: 'uniview', name: 'Uniview', main: '/unicast/c{c}/s0/live', sub: '/unicast/c{c}/s1/live' },
  { id: 'sonoff', name: 'Sonoff', main: '/av_stream/ch0', sub: '/av_stream/ch1' },
  { id: 'mobotix', name: 'Mobotix', main: '/mobotix.h264' },
  { id: 'pi', name: 'Raspberry Pi with MediaMTX', port: 8554, main: '/cam' },
];

// `given` is { brand, address, username, password, channel }, `kind` 'main' or 'sub'.
export function brandUrl(given, kind) {
  const brand = BRANDS.find(({ id }) => id === given.brand);
  const channel = String(given.channel || 1);
  const path = brand[kind]
    .replaceAll('{c2}', channel.padStart(2, '0'))
    .replaceAll('{c}', channel);
  const address = given.address.trim().replace(/^rtsp:\/\//, '').replace(/\/.*$/, '');
  const hasPort = /:\d+$/.test(address);
  return withLogin(`rtsp://${address}${hasPort ? '' : `:${brand.port ?? 554}`}${path}`, given.username, given.password);
}

// Puts user and password into a URL that has none.
export function withLogin(url, username, password) {
  if (!username) return url;
  const login = password ? `${encodeURIComponent(username)}:${encodeURIComponent(password)}` : encodeURIComponent(username);
  return url.replace(/^(rtsps?:\/\/)([^@/?#]*@)?/, `$1${login}@`);
}
