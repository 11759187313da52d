npm test --silent && bash ../example.sh node dist/src/reset-mfa.js
