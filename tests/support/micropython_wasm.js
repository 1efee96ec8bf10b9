// Runs pieces of Python in the npm package `micropython` (MicroPython 1.10 as WebAssembly).
// node micropython_wasm.js PACKAGE_FOLDER PIECES.json OUTPUT: PIECES is a list of strings, run one after the other
// in one interpreter; OUTPUT gets what they printed.
const fs = require('fs');
const [, , packageFolder, pieces, output] = process.argv;
delete globalThis.fetch; // The package would fetch its own file by a path that is no URL.
console.log = () => {}; // It prints while loading.
(async () => {
  const micropython = await require(packageFolder);
  const printed = [];
  global.mpjsPrintStdout = (character) => printed.push(character[0]);
  micropython.init(4 * 1024 * 1024);
  for (const piece of JSON.parse(fs.readFileSync(pieces, 'utf8'))) global._mp_js_do_str(piece);
  fs.writeFileSync(output, Buffer.from(printed));
  process.exit(0);
})();
