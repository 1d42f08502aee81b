// The resource `streaming`: a grid of live pictures.

import { useEffect, useRef, useState } from 'preact/hooks';
import { sentence } from '../api.js';
import { tell } from '../dialog.jsx';
import { Problem } from '../field.jsx';
import { localDateTime, statusInWords } from '../format.js';
import { Heading, Status } from '../heading.jsx';
import { Icon } from '../icon.jsx';
import { openView } from '../live/view.js';
import { go, href } from '../route.js';

const GRIDS = [[1, 'one'], [4, 'four'], [9, 'nine'], [16, 'sixteen']];
const GRID_KEY = 'lightnvr.grid';

function wishedGrid(count) {
  const stored = Number(localStorage.getItem(GRID_KEY));
  if (GRIDS.some(([size]) => size === stored)) return stored;
  return GRIDS.map(([size]) => size).find((size) => size >= count) ?? 16;
}

export function Live({ route, streams, streamsError }) {
  const [grid, setGrid] = useState(null);
  const [at, setAt] = useState(0);
  if (!streams) {
    return <><Heading>Live</Heading><Problem error={streamsError} /></>;
  }
  if (streams.length === 0) return <NoStream />;
  const single = streams.find((stream) => String(stream.id) === route.id);
  const size = single ? 1 : grid ?? wishedGrid(streams.length);
  const pages = Math.ceil(streams.length / size);
  const first = single ? streams.indexOf(single) : Math.min(at, pages - 1) * size;
  const shown = streams.slice(first, first + size);
  function choose(next) {
    localStorage.setItem(GRID_KEY, String(next));
    setGrid(next);
    setAt(Math.floor(first / next));
    if (route.id !== undefined) go('live');
  }
  function turn(by) {
    if (single) go('live', streams[(first + by + streams.length) % streams.length].id);
    else setAt((Math.floor(first / size) + by + pages) % pages);
  }
  const many = single ? streams.length > 1 : pages > 1;
  return (
    <>
      <div class="page-head">
        <Heading title={single ? single.name : 'Live'}>{single ? single.name : 'Live'}</Heading>
        <div class="tools">
          {many && (
            <div class="group">
              <button type="button" class="button plain square" onClick={() => turn(-1)} aria-label="Previous streams"><Icon name="left" /></button>
              <span class="quiet number">{single ? `${first + 1} of ${streams.length}` : `${Math.floor(first / size) + 1} of ${pages}`}</span>
              <button type="button" class="button plain square" onClick={() => turn(1)} aria-label="Next streams"><Icon name="right" /></button>
            </div>
          )}
          <div class="group segmented" role="group" aria-label="Pictures at once">
            {GRIDS.map(([count, icon]) => (
              <button key={count} type="button" class="button plain square" aria-pressed={!single && size === count} aria-label={`${count} at once`}
                title={`${count} at once`} onClick={() => choose(count)}><Icon name={icon} /></button>
            ))}
          </div>
        </div>
      </div>
      <ul class="wall" data-grid={size}>
        {shown.map((stream) => <Tile key={stream.id} stream={stream} isSingle={size === 1} />)}
      </ul>
    </>
  );
}

function NoStream() {
  return (
    <div class="card empty-state">
      <Heading>Live</Heading>
      <p>No camera is set up yet. Add the first one, and its picture appears here.</p>
      <a class="button primary" href={href('streams', 'new')}>Add a camera</a>
    </div>
  );
}

function useHidden() {
  const [isHidden, setHidden] = useState(document.hidden);
  useEffect(() => {
    const update = () => setHidden(document.hidden);
    document.addEventListener('visibilitychange', update);
    return () => document.removeEventListener('visibilitychange', update);
  }, []);
  return isHidden;
}

const WAITING = { phase: 'waiting', way: 'socket', hasSound: false, reason: '' };

function Tile({ stream, isSingle }) {
  const tile = useRef(null);
  const video = useRef(null);
  const image = useRef(null);
  const [view, setView] = useState(WAITING);
  const [isMuted, setMuted] = useState(true);
  const isHidden = useHidden();
  const quality = stream.sub_url && !isSingle ? 'sub' : 'main';
  const codec = quality === 'main' ? stream.actual?.codec : undefined;
  const isWatched = stream.status === 'connected' && !isHidden;
  useEffect(() => {
    setView(WAITING);
    if (!isWatched) return undefined;
    video.current.muted = true;
    return openView({ video: video.current, image: image.current }, { id: stream.id, quality }, codec, setView);
  }, [stream.id, isWatched, codec, quality]);
  useEffect(() => {
    video.current.muted = isMuted;
  }, [isMuted, view.phase]);
  const hasPicture = view.phase === 'showing';
  const isPictures = view.way === 'pictures';
  const status = stream.status === 'connected' && !hasPicture ? 'connecting' : stream.status;
  const words = status === 'connecting' && stream.status === 'connected' ? 'Loading' : statusInWords(status);
  const reason = stream.status_detail || view.reason;
  return (
    <li class="tile" ref={tile} data-phase={view.phase}>
      <div class="tile-picture">
        <video ref={video} playsInline muted aria-label={`Live picture of ${stream.name}`} hidden={isPictures} />
        <img ref={image} alt={`Live picture of ${stream.name}`} hidden={!isPictures || !hasPicture} />
        {!hasPicture && (
          <div class="tile-wait">
            <p class="tile-words">{words}</p>
            {reason && <p class="tile-reason">{sentence(reason)}</p>}
          </div>
        )}
      </div>
      <div class="tile-bar">
        <p class="tile-name">
          {isSingle ? <span>{stream.name}</span> : <a href={href('live', stream.id)}>{stream.name}</a>}
          <Status status={status}>{words}{hasPicture && isPictures ? ', single pictures' : ''}</Status>
        </p>
        <Tools {...{ stream, tile, video, image, isPictures, hasPicture, view, isMuted, setMuted }} />
      </div>
    </li>
  );
}

function Tools({ stream, tile, video, image, isPictures, hasPicture, view, isMuted, setMuted }) {
  const name = stream.name;
  return (
    <div class="tile-tools">
      {view.hasSound && hasPicture && (
        <button type="button" class="tile-tool" aria-pressed={!isMuted} onClick={() => setMuted(!isMuted)}
          aria-label={`Sound of ${name}`} title={isMuted ? 'Sound on' : 'Sound off'}><Icon name={isMuted ? 'muted' : 'sound'} /></button>
      )}
      {hasPicture && (
        <button type="button" class="tile-tool" onClick={() => savePicture(isPictures ? image.current : video.current, name)}
          aria-label={`Save a picture of ${name}`} title="Save a picture"><Icon name="camera" /></button>
      )}
      <a class="tile-tool" href={href('timeline', undefined, { stream: stream.id })} aria-label={`Timeline of ${name}`} title="Timeline"><Icon name="timeline" /></a>
      <button type="button" class="tile-tool" onClick={() => fullScreen(tile.current, video.current)}
        aria-label={`Full screen of ${name}`} title="Full screen"><Icon name="full" /></button>
    </div>
  );
}

function fullScreen(tile, video) {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (tile.requestFullscreen) tile.requestFullscreen().catch(() => {});
  else video.webkitEnterFullscreen?.();
}

function savePicture(source, name) {
  const canvas = document.createElement('canvas');
  canvas.width = source.videoWidth ?? source.naturalWidth;
  canvas.height = source.videoHeight ?? source.naturalHeight;
  canvas.getContext('2d').drawImage(source, 0, 0);
  canvas.toBlob((blob) => {
    if (!blob) {
      tell('There is no picture to save yet.');
      return;
    }
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = `${name} ${localDateTime(Date.now()).replaceAll(':', '-').replace('T', ' ')}.jpg`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    tell(`Saved ${link.download}.`);
  }, 'image/jpeg', 0.92);
}
