package access

import (
	"encoding/json"

	"github.com/latchkey-dev/latchkey"
)

// MarshalJSON writes a string, an array of strings, or a bool.
func (v AnswerValue) MarshalJSON() ([]byte, error) {
	switch v.Kind {
	case OptionsAnswer:
		if v.Options == nil {
			return []byte("[]"), nil
		}
		return json.Marshal(v.Options)
	case CheckedAnswer:
		return json.Marshal(v.Checked)
	default:
		return json.Marshal(v.Text)
	}
}

// UnmarshalJSON reads what MarshalJSON writes.
func (v *AnswerValue) UnmarshalJSON(b []byte) error {
	*v = AnswerValue{}
	if len(b) == 0 {
		return latchkey.Errorf(latchkey.Invalid, "wrong_type", "want a string, an array of strings, or a bool")
	}
	switch b[0] {
	case '[':
		v.Kind = OptionsAnswer
		return json.Unmarshal(b, &v.Options)
	case 't', 'f':
		v.Kind = CheckedAnswer
		return json.Unmarshal(b, &v.Checked)
	default:
		return json.Unmarshal(b, &v.Text)
	}
}
