// Thousands of recordings are read page by page, two fingers zoom the timeline, and nothing is told by colours of ours alone.
//
// HOME holds a recorder with 5000 rows already (tests/page.rs makes it).

import { check, logIn, run, startBrowser, startRecorder, step, until } from './rig.mjs';

const ROWS = 100;
const PAGES = 12;
// A page of rows is the same however far one reads: nothing is left behind.
const NODES_MORE = 50;

async function read(page, url) {
  step('the list is read page by page, and holds one page at a time');
  await page.goto(`${url}#/recordings`);
  const ids = () => page.locator('tbody tr a[download]').evaluateAll((links) => links.map((a) => Number(/recordings\/(\d+)/.exec(a.href)[1])));
  const begins = () => page.locator('tbody .cell-time').allInnerTexts();
  const nodes = () => page.evaluate(() => document.querySelectorAll('*').length);
  await until('the first page', async () => (await ids()).length === ROWS);
  const first = await ids();
  const bound = (await nodes()) + NODES_MORE;
  const seen = new Set(first);
  let last = first;
  for (let n = 1; n < PAGES; n += 1) {
    await page.getByRole('navigation', { name: 'Pages of recordings' }).getByRole('link', { name: 'Older' }).click();
    const next = await until(`page ${n + 1}`, async () => {
      const now = await ids();
      return now.length === ROWS && now[0] !== last[0] && now;
    });
    for (const id of next) check(!seen.has(id), `recording ${id} is on two pages`);
    next.forEach((id) => seen.add(id));
    last = next;
    check((await nodes()) <= bound, `page ${n + 1} has ${await nodes()} elements, the first one had ${bound - NODES_MORE}`);
  }
  check((await begins()).length === ROWS, 'each row says when it begins');
  await page.mouse.wheel(0, 20000);
  await until('the end of the page is reached', () => page.evaluate(() => scrollY + innerHeight >= document.documentElement.scrollHeight - 1));
  for (let n = 1; n < PAGES; n += 1) {
    await page.getByRole('navigation', { name: 'Pages of recordings' }).getByRole('link', { name: 'Newer' }).click();
    last = await until('a newer page', async () => {
      const now = await ids();
      return now.length === ROWS && now[0] !== last[0] && now;
    });
  }
  check(last[0] === first[0], 'back at the newest one');
  step(`${seen.size} recordings, ${await nodes()} elements`);
}

async function pinch(browser, url) {
  step('two fingers zoom the timeline where they are');
  const page = await browser.open({ viewport: { width: 390, height: 800 }, hasTouch: true, isMobile: true });
  await logIn(page, url);
  await page.goto(`${url}#/timeline`);
  const bar = page.locator('.bar').first();
  await bar.waitFor();
  const hours = () => page.locator('.ruler .tick').evaluateAll((ticks) => ticks.map((tick) => {
    const [h, m, s] = tick.textContent.split(':').map(Number);
    return { at: h + m / 60 + (s || 0) / 3600, x: (parseFloat(tick.style.left) / 100) * tick.parentElement.clientWidth };
  }).filter(({ at }, n) => n === 0 || at > 0));
  const pxPerHour = async () => {
    const found = await hours();
    return (found.at(-1).x - found[0].x) / (found.at(-1).at - found[0].at);
  };
  await until('the ruler has ticks', async () => (await hours()).length > 2);
  await bar.scrollIntoViewIfNeeded();
  const before = await pxPerHour();
  const { x, y, width, height } = await bar.boundingBox();
  const middle = x + width / 2;
  const devtools = await page.context().newCDPSession(page);
  const touch = (type, apart) => devtools.send('Input.dispatchTouchEvent', {
    type,
    touchPoints: apart === null ? [] : [-1, 1].map((side, id) => ({ id, x: middle + side * apart, y: y + height / 2 })),
  });
  await touch('touchStart', 20);
  for (let apart = 24; apart <= 80; apart += 4) await touch('touchMove', apart);
  await touch('touchEnd', null);
  const factor = await until('a larger scale', async () => {
    const now = (await hours()).length > 1 ? (await pxPerHour()) / before : 0;
    return now > 2 && now;
  });
  check(factor < 8, `four times as far apart shows a ${factor.toFixed(1)}th of the day`);
  check((await page.evaluate(() => visualViewport.scale)) === 1, 'the page itself is as large as before');
  step(`a pinch of 4 zooms by ${factor.toFixed(1)}`);
  await page.context().close();
}

// In forced colours backgrounds are the system's: what is on, chosen or has the focus must be seen by its edge or its words.
async function force(browser, url) {
  step('in forced colours switches, choices and focus are seen');
  const page = await browser.open({ forcedColors: 'active' });
  await logIn(page, url);
  await page.goto(`${url}#/streams/new`);
  const track = page.locator('#field-enabled + .switch-track');
  await track.waitFor();
  // What is painted of it: colours and edges, its knob included.
  const look = (locator) => locator.evaluate((e) => [null, '::before', '::after'].map((part) => {
    const style = getComputedStyle(e, part);
    return ['backgroundColor', 'borderTopColor', 'borderTopWidth', 'outlineStyle', 'transform', 'textDecorationLine'].map((name) => style[name]).join(' ');
  }).join('; '));
  const on = await look(track);
  const edge = await track.evaluate((e) => getComputedStyle(e).borderTopWidth);
  check(parseFloat(edge) >= 1, 'a switch has an edge');
  const knob = await track.evaluate((e) => getComputedStyle(e, '::after').backgroundColor);
  const ground = await track.evaluate((e) => getComputedStyle(e).backgroundColor);
  check(knob !== ground, 'the knob of a switch is seen');
  await page.getByText('Switched on').click();
  check((await look(track)) !== on, 'a switch that is off looks otherwise');
  await page.keyboard.press('Tab');
  const outline = await page.evaluate(() => {
    const next = document.activeElement.nextElementSibling;
    return getComputedStyle(next?.matches('.switch-track') ? next : document.activeElement).outlineStyle;
  });
  check(outline === 'solid', 'the focus is seen');
  const links = page.getByRole('navigation', { name: 'Pages' }).getByRole('link');
  const [chosen, other] = [links.and(page.locator('[aria-current="page"]')).first(), links.and(page.locator(':not([aria-current="page"])')).first()];
  check((await look(chosen)) !== (await look(other)), 'the page that is open is marked in the navigation');
  const tiles = page.locator('.button').first();
  check(parseFloat(await tiles.evaluate((e) => getComputedStyle(e).borderTopWidth)) >= 1, 'a button has an edge');
  await page.context().close();
}

await run(async () => {
  const recorder = await startRecorder();
  await recorder.api('POST', '/streams', { name: 'Front door', url: 'testpattern://', width: 320, height: 240, fps: 10 });
  const browser = await startBrowser();
  const page = await browser.open();
  await logIn(page, recorder.url);
  await read(page, recorder.url);
  await page.context().close();
  await pinch(browser, recorder.url);
  await force(browser, recorder.url);
});
