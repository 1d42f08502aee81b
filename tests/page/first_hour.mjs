// The first hour of a new owner: from the printed password to a recording that is played, saved and deleted.

import { spawnSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { PASSWORD, check, hasInitialPassword, home, logIn, readPassword, run, startBrowser, startRecorder, step, until } from './rig.mjs';

const go = (page, name) => page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name }).click();

async function setUp(page, recorder) {
  step('a wrong password is refused in words, and no window of the browser appears');
  await page.goto(recorder.url);
  await page.getByRole('heading', { name: 'Log in' }).waitFor();
  await page.getByLabel('Password').fill('not the password');
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('alert').filter({ hasText: 'don’t fit' }).waitFor();

  step('the printed password leads to a new one');
  await page.getByLabel('Password').fill(readPassword());
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('heading', { name: 'Choose your own password' }).waitFor();
  await page.getByLabel('New password', { exact: true }).fill('short');
  await page.getByLabel('New password again').fill('short');
  await page.getByRole('button', { name: 'Save and go on' }).click();
  await page.getByText('has at least 10 characters').waitFor();
  await page.getByLabel('New password', { exact: true }).fill(PASSWORD);
  await page.getByLabel('New password again').fill(PASSWORD);
  await page.getByRole('button', { name: 'Save and go on' }).click();
  await page.getByRole('heading', { name: 'Add your first camera' }).waitFor();
  check(!hasInitialPassword(), 'the printed password is forgotten');
}

async function addStream(page, recorder) {
  step('an address that is none is an error beside its field');
  await page.getByLabel('Name').fill('Front door');
  await page.getByLabel('Address', { exact: true }).fill('ftp://nothing');
  await page.getByRole('button', { name: 'Add the camera' }).click();
  await page.locator('.field.wrong').filter({ hasText: 'Address' }).waitFor();
  check(await page.getByLabel('Address', { exact: true }).evaluate((e) => e === document.activeElement && e.getAttribute('aria-invalid') === 'true'), 'the wrong field has the focus');

  step('a camera that is not there is tested, and the page says what to do');
  await page.getByLabel('Make of the camera').selectOption('hikvision');
  await page.getByLabel('Address in your network').fill('127.0.0.1:9');
  await page.getByLabel('User of the camera').fill('admin');
  await page.getByLabel('Password of the camera').fill('p@ss');
  await page.getByText('rtsp://admin:***@127.0.0.1:9/Streaming/Channels/101').waitFor();
  await page.getByRole('button', { name: 'Test' }).click();
  await page.locator('.test .problem').waitFor();

  step('the test pattern is tested and shows its picture');
  await page.getByLabel('Make of the camera').selectOption('');
  await page.getByLabel('Address', { exact: true }).fill('testpattern://');
  await page.getByLabel('User of the camera').fill('');
  await page.getByLabel('Password of the camera').fill('');
  await page.getByRole('button', { name: 'Test' }).click();
  await page.getByText('It works.').waitFor();
  await until('the picture of the test is drawn', () => page.getByAltText('The camera’s picture just now').evaluate((e) => e.naturalWidth > 0));

  await page.getByRole('button', { name: 'Add the camera' }).click();
  await page.getByRole('heading', { name: 'Live' }).waitFor();
  // Small: the pictures of three tests are encoded beside each other.
  await recorder.api('PUT', '/streams/0', { width: 320, height: 240, fps: 10 });
}

async function watch(page) {
  step('the picture moves, through the WebSocket');
  const socket = page.waitForEvent('websocket');
  await page.reload();
  check((await socket).url().endsWith('/api/v1/streaming/0/live'), 'the page opens the socket');
  await page.locator('.tile[data-phase="showing"]').waitFor();
  const video = page.getByLabel('Live picture of Front door');
  const frames = () => video.evaluate((v) => v.getVideoPlaybackQuality().totalVideoFrames);
  const before = await frames();
  await until('twenty frames more', async () => (await frames()) > before + 20);
  await page.locator('.tile .status', { hasText: 'Live' }).waitFor();

  step('a picture is saved');
  const saved = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Save a picture of Front door' }).click();
  check((await saved).suggestedFilename().startsWith('Front door 20'), 'the picture has the name of its stream');

  step('a hidden tab watches nothing');
  const closed = new Promise((resolve) => page.once('websocket', (s) => s.on('close', resolve)));
  await page.reload();
  await page.locator('.tile[data-phase="showing"]').waitFor();
  await page.evaluate(() => {
    Object.defineProperty(document, 'hidden', { value: true, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  });
  await closed;
  await page.evaluate(() => {
    delete document.hidden;
    document.dispatchEvent(new Event('visibilitychange'));
  });
  await page.locator('.tile[data-phase="showing"]').waitFor();
}

async function watchOtherwise(browser, recorder) {
  const ways = [
    ['without WebSocket the picture comes by HLS', () => delete globalThis.WebSocket, (page) => page.getByLabel('Live picture of Front door').evaluate((v) => v.getVideoPlaybackQuality?.().totalVideoFrames > 10)],
    [
      'a browser that plays no live video gets single pictures',
      () => {
        delete globalThis.WebSocket;
        delete globalThis.MediaSource;
        delete globalThis.ManagedMediaSource;
        HTMLMediaElement.prototype.canPlayType = () => '';
      },
      (page) => page.getByText('Live, single pictures').isVisible(),
    ],
  ];
  for (const [words, cripple, isShown] of ways) {
    step(words);
    const page = await browser.open();
    await page.addInitScript(cripple);
    await logIn(page, recorder.url);
    await page.locator('.tile[data-phase="showing"]').waitFor();
    await until(words, () => isShown(page));
    await page.context().close();
  }
}

async function changeSetting(page, recorder) {
  step('a setting out of its range is an error beside its field, and a right one holds at once');
  await go(page, 'System');
  const field = page.getByLabel('Length of a recording');
  await field.fill('5');
  await page.getByRole('button', { name: 'Save settings' }).click();
  await page.locator('.field.wrong').filter({ hasText: 'Length of a recording' }).waitFor();
  await field.fill('10');
  await page.getByRole('button', { name: 'Save settings' }).click();
  await page.getByRole('status').filter({ hasText: 'Saved' }).waitFor();
  check((await recorder.api('GET', '/settings')).segment_seconds === 10, 'the recorder has the setting');

  step('the log is saved, without a password in it');
  const log = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Save the log' }).click();
  check(statSync(await (await log).path()).size > 0, 'the log has lines');

  step('a backup is saved and restored');
  const saved = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Save a backup' }).click();
  const file = join(home, 'backup.json');
  await (await saved).saveAs(file);
  await page.locator('input[type="file"]').setInputFiles(file);
  await page.getByRole('dialog').getByText('1 stream').waitFor();
  await page.getByRole('button', { name: 'Restore', exact: true }).click();
  await page.getByRole('status').filter({ hasText: 'restored' }).waitFor();
}

async function play(page, recorder) {
  step('a recording is found on the timeline, plays at that moment and goes on into the next one');
  // Those before have a picture of another size, and an export holds one format.
  const since = Date.now();
  const isWhole = (r) => !r.in_progress && r.duration >= 8 && Date.parse(r.start_time) >= since;
  const finished = async () => (await recorder.api('GET', '/recordings?stream_id=0')).recordings.filter(isWhole);
  const [first] = await until('two recordings are finished', async () => {
    const list = await finished();
    return list.length >= 2 && list;
    // The one that runs may have just begun, and each takes 10 s.
  }, 60000);
  await go(page, 'Timeline');
  const row = page.getByRole('slider', { name: 'Front door' });
  await row.waitFor();
  await row.focus();
  // The slider begins at the present; from there back into what is recorded.
  for (let n = 0; n < 10; n += 1) await page.keyboard.press('+');
  await until('the slider says that this moment is recorded', async () => {
    for (let n = 0; n < 20; n += 1) {
      if (/Recorded/.test(await row.getAttribute('aria-valuetext'))) return true;
      await page.keyboard.press('ArrowLeft');
    }
    return false;
  });
  await page.keyboard.press('Enter');
  const player = page.getByRole('region', { name: 'Player' });
  const video = page.getByLabel('Recording of Front door');
  const state = () => video.evaluate((v) => ({ time: v.currentTime, src: v.currentSrc, frames: v.getVideoPlaybackQuality().totalVideoFrames }));
  await until('it plays', async () => (await state()).frames > 0);

  step('from the list of recordings it plays, too, and seeks');
  await page.goto(`${recorder.url}#/timeline?stream=0&at=${first.start_time}`);
  await until('the first recording plays', async () => {
    const now = await state();
    return now.src.endsWith(`/recordings/${first.id}/download`) && now.time > 0.5;
  });
  await player.getByRole('button', { name: 'Pause' }).click();
  const bar = page.getByRole('slider', { name: 'Front door' });
  check(/Recorded/.test(await bar.getAttribute('aria-valuetext')), 'the slider says what is there');
  await player.getByRole('button', { name: 'Play' }).click();
  await player.getByLabel('Speed').selectOption('8');
  await until('the next recording plays', async () => {
    const now = await state();
    return !now.src.endsWith(`/recordings/${first.id}/download`) && now.time > 0;
  });
  return first;
}

async function exportSpan(page, recorder, first) {
  step('a span becomes one MP4, which ffprobe reads');
  await page.goto(`${recorder.url}#/timeline?stream=0&at=${first.start_time}`);
  await page.getByRole('button', { name: 'Begin here' }).waitFor();
  const local = (time) => new Date(Date.parse(time) + 3600 * 1000 * offset(time)).toISOString().slice(0, 19).replace(/:00$/, ''); // as Chromium has it
  await page.getByLabel('From', { exact: true }).fill(local(first.start_time));
  await page.getByLabel('To', { exact: true }).fill(local(new Date(Date.parse(first.start_time) + 14000).toISOString()));
  const download = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Save as MP4' }).click();
  const file = join(home, 'export.mp4');
  await (await download).saveAs(file);
  const probe = spawnSync('ffprobe', ['-v', 'error', '-show_entries', 'format=duration', '-of', 'csv=p=0', file], { encoding: 'utf8' });
  check(probe.status === 0 && Number(probe.stdout) > 10, `ffprobe of the export: ${probe.stdout} ${probe.stderr}`);
}

// Hours that the browser's zone is ahead of UTC at `time`.
function offset(time) {
  const parts = new Intl.DateTimeFormat('en-GB', { timeZone: 'Europe/Berlin', timeZoneName: 'longOffset' }).formatToParts(new Date(time));
  return Number(/GMT([+-]\d+)/.exec(parts.find(({ type }) => type === 'timeZoneName').value)?.[1] ?? 0);
}

async function keepAndDelete(page, recorder, first) {
  step('recordings are filtered, protected, saved and deleted');
  await go(page, 'Recordings');
  const [second] = (await recorder.api('GET', `/recordings?stream_id=0&after=${first.id}&limit=1`)).recordings;
  const entry = (recording) => page.getByRole('row').filter({ has: page.locator(`a[href$="/recordings/${recording.id}/download"]`) });
  await entry(first).waitFor();
  await entry(first).getByRole('button', { name: 'Protect' }).click();
  await entry(first).getByText('protected', { exact: true }).waitFor();
  check((await recorder.api('GET', `/recordings/${first.id}`)).protected, 'the recorder protects it');
  await page.getByLabel('Protected alone').check();
  await until('the protected one alone is listed', async () => (await page.locator('tbody tr').count()) === 1);
  await page.getByRole('button', { name: 'Show all' }).click();

  const download = page.waitForEvent('download');
  await entry(second).getByRole('link', { name: 'Save' }).click();
  check(statSync(await (await download).path()).size === second.size, 'the saved file is whole');

  await entry(second).getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('dialog').getByText('Front door').waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'hidden' });
  check((await recorder.api('GET', `/recordings/${second.id}`)).id === second.id, 'who cancels deletes nothing');
  await entry(second).getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('button', { name: 'Delete for good' }).click();
  await entry(second).waitFor({ state: 'detached' });
}

async function loseServer(page, recorder) {
  step('a lost recorder shows a banner, and the page goes on by itself when it is back');
  await go(page, 'Live');
  await page.locator('.tile[data-phase="showing"]').waitFor();
  await recorder.stop();
  await page.getByRole('alert').filter({ hasText: 'can’t be reached' }).waitFor();
  const again = await startRecorder(recorder.port);
  await page.locator('.banner').waitFor({ state: 'detached' });
  // Sessions live in memory: after a restart one logs in again.
  await page.getByRole('heading', { name: 'Log in' }).waitFor();
  await page.getByLabel('Password').fill(PASSWORD);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.locator('.tile[data-phase="showing"]').waitFor();

  step('logging out ends the session');
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.getByRole('heading', { name: 'Log in' }).waitFor();
  const status = await page.evaluate(async () => (await fetch('/api/v1/streams', { headers: { 'X-Requested-With': 'lightnvr' } })).status);
  check(status === 401, `after logging out the API answers ${status}`);
  return again;
}

await run(async () => {
  const recorder = await startRecorder();
  const browser = await startBrowser();
  const page = await browser.open();
  await setUp(page, recorder);
  await addStream(page, recorder);
  await watch(page);
  await watchOtherwise(browser, recorder);
  await changeSetting(page, recorder);
  const first = await play(page, recorder);
  await exportSpan(page, recorder, first);
  await keepAndDelete(page, recorder, first);
  await loseServer(page, recorder);
});
