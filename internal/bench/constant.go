package main

import (
	"os"

	"github.com/gofiber/fiber/v2"
)

// constantCommand makes this program the constant server instead.
const constantCommand = "constant-server"

// constant answers every decision with the same bytes: the most that the HTTP
// library can do, and so what latchkey is held against.
func constant(listen, bodyFile string) error {
	body, err := os.ReadFile(bodyFile)
	if err != nil {
		return err
	}
	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Post("/decision", func(c *fiber.Ctx) error {
		c.Response().Header.SetContentType(fiber.MIMEApplicationJSON)
		return c.Send(body)
	})
	app.Get("/health/ready", func(c *fiber.Ctx) error { return c.SendString("ready") })
	return app.Listen(listen)
}
