/** A style sheet imported by a module is its minified text. */
declare module "*.css" {
  const text: string;
  export default text;
}
