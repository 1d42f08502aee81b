// Builds the page into dist/, each file with a gzip copy beside it: the recorder compresses nothing itself,
// and browsers accept brotli over HTTPS alone, which a recorder in the LAN seldom has.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { constants, gzipSync } from 'node:zlib';
import { defineConfig } from 'vite';

const DIST = join(import.meta.dirname ?? new URL('.', import.meta.url).pathname, 'dist');

function compress(dir) {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) {
      compress(path);
    } else if (!path.endsWith('.gz')) {
      const gz = gzipSync(readFileSync(path), { level: constants.Z_BEST_COMPRESSION, memLevel: 9 });
      writeFileSync(`${path}.gz`, gz);
    }
  }
}

export default defineConfig({
  plugins: [{ name: 'gzip', apply: 'build', closeBundle: () => compress(DIST) }],
  esbuild: { jsx: 'automatic', jsxImportSource: 'preact', legalComments: 'none' },
  build: {
    outDir: DIST,
    target: ['chrome100', 'firefox100', 'safari15.4'],
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: { proxy: { '/api': { target: 'http://127.0.0.1:8080', ws: true }, '/healthz': 'http://127.0.0.1:8080' } },
});
