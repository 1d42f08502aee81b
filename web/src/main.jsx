// The page: who is logged in, what is polled for all pages, and which page is shown.

import { render } from 'preact';
import { useCallback, useEffect, useState } from 'preact/hooks';
import { api, events } from './api.js';
import { usePoll } from './poll.js';
import { go, useRoute } from './route.js';
import { Shell } from './shell.jsx';
import { Live } from './pages/live.jsx';
import { Login, SetUp } from './pages/session.jsx';
import { Recordings } from './pages/recordings.jsx';
import { StreamForm } from './pages/stream_form.jsx';
import { Streams } from './pages/streams.jsx';
import { System } from './pages/system.jsx';
import { Timeline } from './pages/timeline.jsx';
import { remember } from './pages/system_history.js';
import './style.css';

const STREAMS_MS = 3000;
const SYSTEM_MS = 5000;

// `undefined` while it is asked for, null when nobody is logged in.
function useSession() {
  const [session, setSession] = useState(undefined);
  const ask = useCallback(async () => {
    try {
      setSession(await api('GET', '/session'));
    } catch (error) {
      if (error.status === 401) setSession(null);
      // Without sessions the browser asks for the login itself.
      if (error.status === 404) setSession({ username: '', must_change_password: false });
    }
  }, []);
  useEffect(() => {
    const over = () => setSession(null);
    const retry = () => setSession((now) => {
      if (now === undefined) ask();
      return now;
    });
    ask();
    events.addEventListener('unauthorized', over);
    events.addEventListener('found', retry);
    return () => {
      events.removeEventListener('unauthorized', over);
      events.removeEventListener('found', retry);
    };
  }, [ask]);
  return [session, setSession];
}

function useLost() {
  const [isLost, setLost] = useState(false);
  useEffect(() => {
    const lose = () => setLost(true);
    const find = () => setLost(false);
    events.addEventListener('lost', lose);
    events.addEventListener('found', find);
    return () => {
      events.removeEventListener('lost', lose);
      events.removeEventListener('found', find);
    };
  }, []);
  return isLost;
}

function App() {
  const [session, setSession] = useSession();
  const isLost = useLost();
  const [first, setFirst] = useState(null);
  if (session === undefined) return <Shell isLost={isLost} isBare><p class="quiet">Asking the recorder …</p></Shell>;
  if (session === null) {
    const enter = (next, password) => {
      setFirst(next.must_change_password ? password : null);
      setSession(next);
    };
    return <Shell isLost={isLost} isBare><Login onEnter={enter} /></Shell>;
  }
  if (session.must_change_password) {
    const done = (next) => {
      setFirst(null);
      setSession(next);
      go('streams', 'new');
    };
    return <Shell isLost={isLost} isBare><SetUp session={session} current={first} onDone={done} /></Shell>;
  }
  return <Rooms session={session} isLost={isLost} onLeave={() => setSession(null)} />;
}

function Rooms({ session, isLost, onLeave }) {
  const route = useRoute();
  const streams = usePoll('/streams', STREAMS_MS);
  const system = usePoll('/system', SYSTEM_MS);
  useEffect(() => {
    if (system.data) remember(system.data);
  }, [system.data]);
  async function leave() {
    await api('DELETE', '/session').catch(() => {});
    onLeave();
  }
  const list = streams.data?.streams ?? null;
  const given = { route, streams: list, streamsError: streams.error, reloadStreams: streams.reload, system: system.data };
  return (
    <Shell session={session} isLost={isLost} page={route.page} system={system.data} onLeave={leave}>
      <Room key={`${route.page}/${route.page === 'streams' ? route.id : ''}`} given={given} />
    </Shell>
  );
}

function Room({ given }) {
  const { page, id } = given.route;
  if (page === 'timeline') return <Timeline {...given} />;
  if (page === 'recordings') return <Recordings {...given} />;
  if (page === 'streams') return id === undefined ? <Streams {...given} /> : <StreamForm {...given} />;
  if (page === 'system') return <System {...given} />;
  return <Live {...given} />;
}

render(<App />, document.getElementById('app'));
