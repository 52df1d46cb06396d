// The API's documentation: Swagger UI, which the page has loaded before, over
// this server's own description.

declare const SwaggerUIBundle: (options: Record<string, unknown>) => unknown;

SwaggerUIBundle({
  url: "/openapi.json",
  domNode: document.getElementById("docs"),
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null, // no host but this one is asked
});

export {};
