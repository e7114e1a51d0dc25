import eslint from '@eslint/js';
import tseslint from 'typescript-eslint';

export default tseslint.config(eslint.configs.recommended, ...tseslint.configs.strictTypeChecked, {
  languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
  rules: {
    // signals take a method and its object apart
    '@typescript-eslint/unbound-method': 'off',
    // numbers in texts are what this extension is about
    '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }]
  }
});
