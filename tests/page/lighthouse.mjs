// Lighthouse's opinion of the page that a visitor meets first and of the pages behind the login.

import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { CHROMIUM, FLAGS, PASSWORD, check, dieWithUs, home, require, run, startRecorder, step } from './rig.mjs';

const SCORE_MIN = 0.95;
const CATEGORIES = ['accessibility', 'best-practices'];

const load = async (name) => import(pathToFileURL(require.resolve(name)));

// A browser that both this script and Lighthouse talk to.
async function startChromium() {
  const child = dieWithUs(spawn(CHROMIUM, ['--headless', '--remote-debugging-port=0', `--user-data-dir=${join(home, 'profile')}`, ...FLAGS], { stdio: ['ignore', 'ignore', 'pipe'] }));
  return new Promise((resolve, reject) => {
    createInterface(child.stderr).on('line', (line) => {
      const found = /DevTools listening on (ws:\S+)/.exec(line);
      if (found) resolve(found[1]);
    });
    child.on('exit', (code) => reject(new Error(`chromium ended with ${code}`)));
  });
}

await run(async () => {
  const recorder = await startRecorder(0, { LIGHTNVR_ADMIN_PASSWORD: PASSWORD });
  await recorder.api('POST', '/streams', { name: 'Front door', url: 'testpattern://', width: 320, height: 240, fps: 10 });
  const { default: lighthouse } = await load('lighthouse');
  const { default: puppeteer } = await load('puppeteer-core');
  const browser = await puppeteer.connect({ browserWSEndpoint: await startChromium() });
  const page = await browser.newPage();
  for (const [name, path] of [['log in', ''], ['live', '#/live'], ['system', '#/system']]) {
    if (name === 'live') {
      await page.goto(recorder.url);
      const status = await page.evaluate(async (password) => {
        const body = JSON.stringify({ username: 'admin', password });
        const headers = { 'Content-Type': 'application/json', 'X-Requested-With': 'lightnvr' };
        return (await fetch('/api/v1/session', { method: 'POST', headers, body })).status;
      }, PASSWORD);
      check(status === 200, `logging in answers ${status}`);
    }
    // Without a reload a change of the fragment is no navigation that Lighthouse could watch.
    await page.goto('about:blank');
    const flags = { onlyCategories: CATEGORIES, disableStorageReset: true, logLevel: 'error', formFactor: 'desktop', screenEmulation: { disabled: true } };
    const { lhr } = await lighthouse(recorder.url + path, flags, undefined, page);
    check(!lhr.runtimeError, `${name}: ${lhr.runtimeError?.message}`);
    for (const id of CATEGORIES) {
      const { score, auditRefs } = lhr.categories[id];
      const lost = auditRefs.map(({ id: audit }) => lhr.audits[audit]).filter((audit) => audit.score !== null && audit.score < 1);
      step(`${name}: ${id} ${Math.round(score * 100)}${lost.length > 0 ? ` (${lost.map((audit) => audit.id).join(', ')})` : ''}`);
      check(score >= SCORE_MIN, `${name}: ${id} ${score}: ${JSON.stringify(lost.map(({ id: audit, title, details }) => ({ audit, title, items: details?.items })), null, 1)}`);
    }
  }
});
