// Line icons on a grid of 24; decoration beside words, or with a label of their button.

const PATHS = {
  live: 'M4 6h16v12H4zM10 9.5v5l4.5-2.5z',
  timeline: 'M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM12 8v4.3l3 1.9',
  recordings: 'M4 5h16v14H4zM8 5v14M16 5v14M4 9.7h4M4 14.3h4M16 9.7h4M16 14.3h4',
  streams: 'M4 8h10v9H4zM14 11l6-3v9l-6-3zM7 8V5',
  system: 'M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5',
  play: 'M8 5l11 7-11 7z',
  pause: 'M8 5v14M16 5v14',
  back: 'M11 6L5 12l6 6M19 6l-6 6 6 6',
  forward: 'M13 6l6 6-6 6M5 6l6 6-6 6',
  left: 'M15 5l-7 7 7 7',
  right: 'M9 5l7 7-7 7',
  plus: 'M12 5v14M5 12h14',
  minus: 'M5 12h14',
  full: 'M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5',
  camera: 'M4 8h4l1.5-2.5h5L16 8h4v11H4zM12 16.5a3.2 3.2 0 1 0 0-6.4 3.2 3.2 0 0 0 0 6.4z',
  sound: 'M5 10v4h3l4 3.5v-11L8 10zM15.5 9a4 4 0 0 1 0 6M18 6.5a8 8 0 0 1 0 11',
  muted: 'M5 10v4h3l4 3.5v-11L8 10zM16 10l4 4M20 10l-4 4',
  save: 'M12 4v11M7.5 11l4.5 4.5 4.5-4.5M4.5 19.5h15',
  keep: 'M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3',
  free: 'M6 11h12v9H6zM8.5 11V7.5A3.5 3.5 0 0 1 15.3 6',
  remove: 'M5 7h14M9.5 7V4.5h5V7M7 7l1 13h8l1-13M10.3 11v5.5M13.7 11v5.5',
  edit: 'M5 19l1-4L16.5 4.5l3 3L9 18z',
  warn: 'M12 4l9 16H3zM12 10v4.5M12 17.2v.3',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  exit: 'M14 5H5v14h9M10 12h10M16.5 8.5L20 12l-3.5 3.5',
  one: 'M5 5h14v14H5z',
  four: 'M5 5h14v14H5zM12 5v14M5 12h14',
  nine: 'M5 5h14v14H5zM9.7 5v14M14.3 5v14M5 9.7h14M5 14.3h14',
  sixteen: 'M4 4h16v16H4zM8 4v16M12 4v16M16 4v16M4 8h16M4 12h16M4 16h16',
};

export function Icon({ name }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" width="20" height="20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

export function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" width="28" height="28" aria-hidden="true" focusable="false">
      <rect width="32" height="32" rx="9" />
      <path d="M7 16a9 9 0 0 1 18 0" />
      <circle cx="16" cy="18" r="4.5" />
    </svg>
  );
}
