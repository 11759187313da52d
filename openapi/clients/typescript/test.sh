npm test --silent
