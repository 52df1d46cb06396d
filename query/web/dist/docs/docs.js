SwaggerUIBundle({url:"/openapi.json",domNode:document.getElementById("docs"),deepLinking:!0,tryItOutEnabled:!0,validatorUrl:null});
