// Interactive API reference (Swagger UI).

SwaggerUIBundle({ url: "/openapi.json", dom_id: "#api", deepLinking: true, displayRequestDuration: true, tryItOutEnabled: true });
