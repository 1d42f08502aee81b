// What the tests of the page share: the recorder, the browser, and words for what they do.
//
// Started by tests/page.rs as `node SCRIPT HOME`, with LIGHTNVR_BIN and LIGHTNVR_NODE_MODULES in the environment.

import { spawn } from 'node:child_process';
import { existsSync, openSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { join } from 'node:path';

export const home = process.argv[2];
export const PASSWORD = 'correct-horse-battery';
export const require = createRequire(`${process.env.LIGHTNVR_NODE_MODULES}/`);
const { chromium } = require('playwright-core');

// Chromium on a loaded machine, and a recorder that encodes its own test pattern.
const PATIENCE_MS = 30000;
// Root needs no-sandbox; the rest keeps the browser from asking anything of the internet.
export const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--mute-audio',
  '--autoplay-policy=no-user-gesture-required',
];
export const CHROMIUM = '/usr/bin/chromium';

export const step = (words) => console.log(`page test: ${words}`);

export function check(holds, words) {
  if (!holds) throw new Error(words);
}

export const readPassword = () => readFileSync(join(home, 'data', 'initial-password'), 'utf8').trim();
export const hasInitialPassword = () => existsSync(join(home, 'data', 'initial-password'));

// What this process starts does not outlive it.
export function dieWithUs(child) {
  process.on('exit', () => child.kill('SIGKILL'));
  return child;
}

// A recorder on home/data; `port` 0 is any free one.
export async function startRecorder(port = 0, env = {}) {
  const log = openSync(join(home, 'recorder.log'), 'a');
  const child = dieWithUs(spawn(process.env.LIGHTNVR_BIN, ['--data-dir', join(home, 'data'), '--listen', `127.0.0.1:${port}`], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', log],
  }));
  const ended = new Promise((resolve) => child.on('exit', resolve));
  const url = await new Promise((resolve, reject) => {
    createInterface(child.stdout).on('line', (line) => {
      const found = /ready: (http:\/\/\S+)/.exec(line);
      if (found) resolve(found[1]);
    });
    ended.then((code) => reject(new Error(`the recorder ended with ${code}`)));
  });
  return {
    url,
    port: Number(new URL(url).port),
    async stop() {
      child.kill('SIGTERM');
      await ended;
    },
    // What curl would do, with the password that the tests choose.
    async api(method, path, body) {
      const headers = { Authorization: `Basic ${Buffer.from(`admin:${PASSWORD}`).toString('base64')}` };
      if (body) headers['Content-Type'] = 'application/json';
      const res = await fetch(`${url}api/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
      check(res.ok, `${method} ${path}: ${res.status} ${await res.clone().text()}`);
      return res.json();
    },
  };
}

const pages = [];

export async function startBrowser() {
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
  return {
    browser,
    // A page that fails the test when a script of it fails.
    async open(options = {}) {
      const context = await browser.newContext({ locale: 'en-GB', timezoneId: 'Europe/Berlin', acceptDownloads: true, viewport: { width: 1280, height: 800 }, ...options });
      context.setDefaultTimeout(PATIENCE_MS);
      const page = await context.newPage();
      pages.push(page);
      page.on('pageerror', (error) => {
        console.error(`page test: a script of the page failed: ${error.stack}`);
        process.exitCode = 1;
      });
      return page;
    },
    close: () => browser.close(),
  };
}

// Tries until `find` gives something true.
export async function until(words, find, patienceMs = PATIENCE_MS) {
  const end = Date.now() + patienceMs;
  for (;;) {
    const found = await find();
    if (found) return found;
    if (Date.now() > end) throw new Error(`not within ${patienceMs / 1000} s: ${words}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

export async function logIn(page, url) {
  await page.goto(url);
  await page.getByLabel('Password').fill(PASSWORD);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('navigation', { name: 'Pages' }).waitFor();
}

// Runs `test` and ends the process: 0 if it came through.
export async function run(test) {
  let failure = null;
  try {
    await test();
  } catch (error) {
    failure = error;
    console.error(error.stack ?? error);
    for (const page of pages.filter((one) => !one.isClosed())) console.error(`at ${page.url()} is shown:\n${await page.innerText('body').catch(String)}`);
  }
  process.exit(failure ? 1 : process.exitCode ?? 0);
}
