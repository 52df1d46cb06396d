package odometer

import (
	"fmt"
	"strings"
)

// Level is how serious an alert is.
type Level string

const (
	LevelWarning Level = "warning" // from WarningPercent on
	LevelError   Level = "error"   // from ErrorPercent on
)

// Thresholds of the alerts, in percent of the limit.
const (
	WarningPercent = 80
	ErrorPercent   = 100
)

// Alert tells a customer that an allowance is nearly used or exceeded.
type Alert struct {
	Agent   string `json:"agent"`
	Level   Level  `json:"level"`
	Message string `json:"message"`
}

// AlertFor is the alert that a count raises, nil when it raises none.
// noun names the agent's unit, costCents the overage so far.
func AlertFor(agent, noun string, count int64, limit *int64, costCents int64, currency string) *Alert {
	percent := Percentage(count, limit)
	switch {
	case percent >= ErrorPercent && Overage(count, limit) > 0:
		return &Alert{agent, LevelError, fmt.Sprintf("You've exceeded your %s quota. Extra charges: %s", noun, Money(costCents, currency))}
	case percent >= ErrorPercent:
		return &Alert{agent, LevelError, fmt.Sprintf("You've reached your %s quota", noun)}
	case percent >= WarningPercent:
		return &Alert{agent, LevelWarning, fmt.Sprintf("You've used %d%% of your %s quota this month", percent, noun)}
	}
	return nil
}

// Money writes an amount of hundredths of a currency for people: $0.20, €1.00,
// CHF 3.50.
func Money(cents int64, currency string) string {
	sign := map[string]string{"usd": "$", "eur": "€", "gbp": "£"}[currency]
	if sign == "" {
		sign = strings.ToUpper(currency) + " "
	}
	minus := ""
	if cents < 0 {
		minus, cents = "-", -cents
	}
	return fmt.Sprintf("%s%s%d.%02d", minus, sign, cents/100, cents%100)
}
