// Bundle the page into vbmstat/ui/static: index.html, app.js, app.css and the licences of what is bundled.
import { build } from 'esbuild'
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const out = resolve(here, '../vbmstat/ui/static')

// What the licence asks to be kept, of packages that do not carry the text themselves.
const TEXTS = {
  '@niivue/niivue': `Copyright (c) 2021, Niivue. All rights reserved.

Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
following conditions are met:
1. Redistributions of source code must retain the above copyright notice, this list of conditions and the following
   disclaimer.
2. Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the following
   disclaimer in the documentation and/or other materials provided with the distribution.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES,
INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY,
WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF
THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.`,
}

await rm(out, { recursive: true, force: true })
await mkdir(out, { recursive: true })
const { metafile } = await build({
  entryPoints: { app: join(here, 'src/main.ts') },
  outdir: out,
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  legalComments: 'none', // licences.txt has them whole
  external: ['numcodecs/*'], // decoders of zarr, which the page never opens
  metafile: true,
})
await copyFile(join(here, 'src/index.html'), join(out, 'index.html'))
await build({ entryPoints: [join(here, 'src/app.css')], outfile: join(out, 'app.css'), minify: true })

const packages = new Set()
for (const input of Object.keys(metafile.inputs)) {
  const found = input.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//)
  if (found) packages.add(found[1])
}
const licences = await Promise.all([...packages].sort().map(licenceOf))
await writeFile(join(out, 'licences.txt'), licences.join('\n\n'))

/** Name, version, licence and licence text of a bundled package; a package without a text stops the build. */
async function licenceOf(name) {
  const folder = join(here, 'node_modules', name)
  const about = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'))
  const file = (await readdir(folder)).find(one => /^licen[cs]e/i.test(one))
  const text = file ? await readFile(join(folder, file), 'utf8') : TEXTS[name]
  if (!text) throw new Error(`${name} ${about.version} (${about.license}) carries no licence text: add it to TEXTS in build.mjs`)
  return `${name} ${about.version}: ${about.license}\n${'='.repeat(72)}\n${text.trim()}\n`
}
