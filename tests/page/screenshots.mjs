// Makes the pictures of README.md from a running recorder: node tests/page/screenshots.mjs DIR URL
// (with LIGHTNVR_NODE_MODULES as for the tests, and the password of the tests, or none, at the recorder).

import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { PASSWORD, check, home as dir, run, startBrowser } from './rig.mjs';

const [, , , url] = process.argv;
const MODES = [
  ['light', { colorScheme: 'light', viewport: { width: 1200, height: 760 } }],
  ['dark', { colorScheme: 'dark', viewport: { width: 1200, height: 760 } }],
  ['phone', { colorScheme: 'dark', viewport: { width: 360, height: 740 }, hasTouch: true, deviceScaleFactor: 1.5 }],
];

async function timeline(page) {
  const list = await page.evaluate(async () => (await fetch('/api/v1/recordings?stream_id=1&order=desc&limit=12')).json());
  await page.goto(`${url}#/timeline?stream=1&at=${list.recordings.at(-1).start_time}`);
  await page.getByRole('button', { name: 'The minute around' }).waitFor();
  for (let n = 0; n < 4; n += 1) await page.getByRole('button', { name: 'See less of the day, larger' }).click();
  await page.getByRole('button', { name: 'The minute around' }).click();
  await page.getByRole('button', { name: 'Pause' }).waitFor();
  await page.getByText('about').first().waitFor();
  await page.evaluate(() => scrollTo(0, 0));
}

const PAGES = [
  ['live', async (page) => {
    await page.goto(`${url}#/live`);
    await page.locator('.tile[data-phase="showing"]').nth(2).waitFor();
  }],
  ['timeline', timeline],
  ['streams', async (page) => {
    await page.goto(`${url}#/streams`);
    await page.locator('.facts').nth(2).waitFor();
  }],
];

await run(async () => {
  const browser = await startBrowser();
  for (const [mode, options] of MODES) {
    const page = await browser.open(options);
    await page.goto(url);
    await page.locator('h1').waitFor();
    const password = page.getByLabel('Password');
    if (await password.isVisible()) {
      await password.fill(PASSWORD);
      await page.getByRole('button', { name: 'Log in' }).click();
    }
    for (const [name, open] of PAGES) {
      await open(page);
      const png = join(dir, `${name}-${mode}.png`);
      await page.screenshot({ path: png });
      const made = spawnSync('ffmpeg', ['-v', 'error', '-y', '-i', png, '-c:v', 'libwebp', '-quality', '60', join(dir, `${name}-${mode}.webp`)]);
      check(made.status === 0, String(made.stderr));
      rmSync(png);
    }
  }
});
