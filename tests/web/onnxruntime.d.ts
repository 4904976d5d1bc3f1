/** The little that the page uses. */
declare module "*/ort.wasm.min.mjs";
