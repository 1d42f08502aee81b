// Plays what the timeline or the list of recordings asks for, with controls that speak of the time of day.

import { useEffect, useRef, useState } from 'preact/hooks';
import { api, downloadUrl } from '../api.js';
import { at as inWords, clock } from '../format.js';
import { tell } from '../dialog.jsx';
import { Icon } from '../icon.jsx';
import { createPlayback } from '../timeline/playback.js';

const RATES = [0.25, 0.5, 1, 2, 4, 8];
const SKIP_S = 10;

// `order` is { stream, at, turn } or null.
export function Player({ order, name, onTime }) {
  const box = useRef(null);
  const video = useRef(null);
  const playback = useRef(null);
  const [state, setState] = useState({ phase: 'idle', recording: null, note: '' });
  const [time, setTime] = useState(null);
  const [rate, setRate] = useState(1);
  const [isMuted, setMuted] = useState(false);
  const tick = useRef(onTime);
  tick.current = onTime;
  useEffect(() => {
    playback.current = createPlayback(video.current, setState, (at) => {
      setTime(at);
      if (at !== null) tick.current(at);
    });
    return () => playback.current.close();
  }, []);
  useEffect(() => {
    if (order) playback.current.playAt(order.stream, order.at);
  }, [order]);
  const { recording, phase, note } = state;
  const isPlaying = phase === 'playing' || phase === 'loading';
  async function keep() {
    try {
      const changed = await api('PUT', `/recordings/${recording.id}`, { body: { protected: !recording.protected } });
      setState((now) => (now.recording?.id === changed.id ? { ...now, recording: { ...now.recording, protected: changed.protected } } : now));
      tell(changed.protected ? 'Protected: it is not deleted by itself.' : 'No longer protected.');
    } catch (error) {
      tell(error.message);
    }
  }
  const full = () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (box.current.requestFullscreen) box.current.requestFullscreen().catch(() => {});
    else video.current.webkitEnterFullscreen?.();
  };
  return (
    <section class="player" ref={box} aria-label="Player" data-phase={phase}>
      <div class="screen">
        <video ref={video} playsInline muted={isMuted} preload="metadata" aria-label={`Recording of ${name}`} onClick={() => playback.current.toggle()} />
        {phase === 'idle' && <p class="screen-words">Choose a moment on the timeline below.</p>}
        {phase === 'failed' && <p class="screen-words" role="alert">{note}</p>}
      </div>
      <div class="transport">
        <button type="button" class="button plain square" disabled={!recording} onClick={() => playback.current.skip(-SKIP_S)} aria-label={`${SKIP_S} seconds back`} title={`${SKIP_S} s back`}><Icon name="back" /></button>
        <button type="button" class="button primary square" disabled={!recording} onClick={() => playback.current.toggle()} aria-label={isPlaying ? 'Pause' : 'Play'}><Icon name={isPlaying ? 'pause' : 'play'} /></button>
        <button type="button" class="button plain square" disabled={!recording} onClick={() => playback.current.skip(SKIP_S)} aria-label={`${SKIP_S} seconds on`} title={`${SKIP_S} s on`}><Icon name="forward" /></button>
        <p class="clock"><strong>{time === null ? '–:–' : clock(time)}</strong><span class="quiet">{recording ? recording.stream_name : name}</span></p>
        <label class="rate"><span class="hidden-text">Speed</span>
          <select value={rate} onChange={(event) => {
            const next = Number(event.currentTarget.value);
            setRate(next);
            playback.current.setRate(next);
          }}>{RATES.map((n) => <option key={n} value={n}>{n}×</option>)}</select>
        </label>
        <button type="button" class="button plain square" aria-pressed={!isMuted} onClick={() => setMuted(!isMuted)} aria-label="Sound" title={isMuted ? 'Sound on' : 'Sound off'}><Icon name={isMuted ? 'muted' : 'sound'} /></button>
        <button type="button" class="button plain square" onClick={full} aria-label="Full screen" title="Full screen"><Icon name="full" /></button>
        {recording && (
          <>
            <button type="button" class="button plain square" aria-pressed={recording.protected} onClick={keep} title={recording.protected ? 'Protected' : 'Protect'}
              aria-label="Protect this recording from automatic deletion"><Icon name={recording.protected ? 'keep' : 'free'} /></button>
            <a class="button plain square" href={downloadUrl(recording.id)} download title="Save this recording" aria-label={`Save the recording of ${inWords(recording.start_time)}`}><Icon name="save" /></a>
          </>
        )}
      </div>
      <p class="note" role="status">{phase === 'failed' ? '' : note}</p>
    </section>
  );
}
