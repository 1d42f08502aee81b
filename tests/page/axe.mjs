// Every page in both colour schemes: axe finds nothing, and at 360 pixels nothing has to be scrolled sideways.

import { PASSWORD, check, logIn, require, run, startBrowser, startRecorder, step, until } from './rig.mjs';

const TAGS = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
const NARROW = { width: 360, height: 740 };
const WIDE = { width: 1280, height: 800 };

// Pages with what shows that they are complete.
const PAGES = [
  ['live', '.tile[data-phase="showing"]'],
  ['live/0', '.tile[data-phase="showing"]'],
  ['timeline?stream=0', '.bar'],
  ['recordings', 'tbody tr'],
  ['streams', '.card.stream .facts'],
  ['streams/0', '#field-url'],
  ['streams/1', '#field-transport'],
  ['streams/new', '#field-url'],
  ['system', '.uplot'],
];

async function look(page, name) {
  const { violations } = await page.evaluate((tags) => window.axe.run(document, { runOnly: tags }), TAGS);
  const words = violations.map(({ id, help, nodes }) => `${id}: ${help}\n${nodes.map(({ target, failureSummary }) => `    ${target}: ${failureSummary}`).join('\n')}`);
  check(words.length === 0, `${name}:\n  ${words.join('\n  ')}`);
}

async function checkWidth(page, name) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  check(over <= 0, `${name}: ${over} pixels wider than the window`);
}

async function checkAll(browser, url, colorScheme) {
  const page = await browser.open({ colorScheme, reducedMotion: 'reduce', bypassCSP: true });
  await page.addInitScript({ path: require.resolve('axe-core/axe.min.js') });
  await page.goto(url);
  await page.getByRole('heading', { name: 'Log in' }).waitFor();
  await look(page, `log in, ${colorScheme}`);
  await logIn(page, url);
  for (const [name, ready] of PAGES) {
    for (const viewport of [WIDE, NARROW]) {
      const words = `${name}, ${colorScheme}, ${viewport.width} wide`;
      await page.setViewportSize(viewport);
      await page.goto(`${url}#/${name}`);
      await page.locator(ready).first().waitFor({ state: 'attached' });
      const folded = page.locator('details:not([open]) > summary');
      while ((await folded.count()) > 0) await folded.first().click();
      await look(page, words);
      await checkWidth(page, words);
    }
  }
  step(`${PAGES.length} pages in ${colorScheme}`);
  await page.setViewportSize(WIDE);
  await page.goto(`${url}#/streams`);
  await page.getByRole('button', { name: 'Delete Front door' }).click();
  await page.getByRole('dialog').waitFor();
  await look(page, `a question, ${colorScheme}`);
  await page.close();
}

await run(async () => {
  const recorder = await startRecorder(0, { LIGHTNVR_ADMIN_PASSWORD: PASSWORD });
  await recorder.api('POST', '/streams', { name: 'Front door', url: 'testpattern://', width: 320, height: 240, fps: 10 });
  await recorder.api('POST', '/streams', { name: 'A camera that is not there', url: 'rtsp://127.0.0.1:9/stream1' });
  await until('something is recorded', async () => (await recorder.api('GET', '/recordings')).recordings.some((r) => r.duration > 0));
  const [first] = (await recorder.api('GET', '/recordings')).recordings;
  await recorder.api('PUT', `/recordings/${first.id}`, { protected: true });
  const browser = await startBrowser();
  for (const scheme of ['light', 'dark']) await checkAll(browser, recorder.url, scheme);
});
