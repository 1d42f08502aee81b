// What is around every page: name, ways, the banner of a lost connection, news.

import { Icon, Mark } from './icon.jsx';
import { News } from './dialog.jsx';
import { days } from './format.js';
import { href } from './route.js';

const PAGES = [
  ['live', 'Live'],
  ['timeline', 'Timeline'],
  ['recordings', 'Recordings'],
  ['streams', 'Streams'],
  ['system', 'System'],
];

export function Shell({ children, isBare, isLost, session, page, system, onLeave }) {
  const skip = (event) => {
    event.preventDefault();
    document.querySelector('h1')?.focus();
  };
  return (
    <div class={isBare ? 'shell bare' : 'shell'}>
      {!isBare && <a class="skip" href="#main" onClick={skip}>Skip to the page</a>}
      <header class="head">
        <p class="name"><Mark />LightNVR</p>
        {!isBare && (
          <nav class="ways" aria-label="Pages">
            {PAGES.map(([name, label]) => (
              <a key={name} class="way" href={href(name)} aria-current={page === name ? 'page' : undefined}>
                <Icon name={name} /><span>{label}</span>
              </a>
            ))}
          </nav>
        )}
        {!isBare && <Summary system={system} session={session} onLeave={onLeave} />}
      </header>
      <div class="body">
        <div role="alert" class="banner-place">
          {isLost && <p class="banner"><Icon name="warn" />The recorder can’t be reached. Trying again until it answers.</p>}
        </div>
        <main id="main" class={isBare ? 'page narrow' : `page page-${page}`}>{children}</main>
      </div>
      <News />
    </div>
  );
}

function Summary({ system, session, onLeave }) {
  const kept = (system?.forecast ?? []).map((forecast) => forecast.days_kept).filter((n) => n !== null);
  return (
    <div class="summary">
      {system && (
        <p class="quiet">
          {system.streams_active} of {system.streams_total} {system.streams_total === 1 ? 'stream' : 'streams'} live
          {kept.length > 0 && <><br />about {days(Math.min(...kept))} kept</>}
        </p>
      )}
      {session.username && (
        <button type="button" class="button plain" onClick={onLeave} aria-label="Log out"><Icon name="exit" /><span>Log out</span></button>
      )}
    </div>
  );
}
