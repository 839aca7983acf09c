// The description of the API, each route to be tried.

SwaggerUIBundle({ url: "/openapi.json", dom_id: "#api", deepLinking: true, displayRequestDuration: true, tryItOutEnabled: true });
